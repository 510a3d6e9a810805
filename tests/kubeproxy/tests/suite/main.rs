//! Real sockets through the rules, from pods and from outside, in both modes and families. Sluice has no part in it: what
//! tests of Services build on is tested by itself.

mod inside;
mod outside;
mod stage;
