//! Enforcement outlives its agent. Under traffic that is counted packet by packet ([`sluice_tests::traffic`]), agents die at
//! random moments, between any two writes, while they start; they hang, restart, and give way to another version. Nothing
//! that the old and the new policy both allow is lost, nothing that both deny gets through, the next agent enforces what the
//! last change says, and nothing of the dead is left.
//!
//! Short by default, all of it with `SLUICE_TEST_LONG=1`. `SLUICE_TEST_SEED=N` repeats a run.

mod deaths;
mod first;
mod hung;
mod rig;
mod strace;
mod versions;
mod writes;
