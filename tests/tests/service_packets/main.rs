//! What translation makes of packets, byte by byte, and what it remembers, with the engine in memory.

mod flows;
mod setting;
mod translated;
