//! Puts the BPF object that `cargo xtask build` made into the agent. Without one the agent still compiles, so that
//! `cargo check` and the host tests need no BPF toolchain; it then says at run time that it has none.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=SLUICE_BPF_OBJECT");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let object = env::var_os("SLUICE_BPF_OBJECT")
        .map_or_else(|| manifest.join("../target/bpf/policy-ebpf"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = if object.is_file() { fs::read(&object)? } else { Vec::new() };
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("policy-ebpf"), bytes)?;
    Ok(())
}
