fn main() -> anyhow::Result<()> {
    let mut dp = policy_agent::datapath::bpf::BpfDatapath::load(
        std::path::Path::new("/sys/fs/bpf/sluice-try"),
        &policy_agent::plan::Capacity::default(),
        policy_agent::datapath::bpf::AttachMode::Auto,
    )?;
    for n in ["no_op", "from_pod", "to_pod"] {
        let p = dp.program(n)?;
        let i = p.info()?;
        println!("{n}: verified {:?} xlated {:?}", i.verified_instruction_count(), i.size_translated());
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok(())
}
