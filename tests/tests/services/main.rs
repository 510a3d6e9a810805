//! Services: real sockets through the real agent with kube-proxy's rules behind it. What is decided is decided on the
//! endpoint that is really reached.

mod life;
mod masquerade;
mod stage;
mod translation;
mod verdicts;
