//! The control socket.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::Process;
use sluice_tests::agent_world::Lab;

use super::{alone, follows, recovers, usage, village};

const NOBODY: u32 = 65534;

/// An agent on `socket`, from a shell that would let everybody in.
fn agent(lab: &Lab, socket: &Path) -> Result<Command> {
    let node = lab.world.node("node1")?;
    let mut command = Command::new("sh");
    command.args(["-c", r#"umask 0; exec timeout 20 "$0" "$@""#]).arg(&lab.binary).arg("run");
    command.arg("--manifests").arg(lab.manifests.path()).arg("--bpffs").arg(node.bpffs());
    command.arg("--socket").arg(socket).env("SLUICE_HEALTH_ADDRESS", "off");
    command.env("SLUICE_CNI_BIN_DIR", "/nonexistent").stdout(Stdio::null());
    Ok(command)
}

fn uninstall(lab: &Lab, socket: &Path) -> Result<()> {
    let node = lab.world.node("node1")?;
    let mut command = Command::new(&lab.binary);
    command.arg("uninstall").arg("--bpffs").arg(node.bpffs()).arg("--socket").arg(socket);
    ensure!(node.ns().output(&mut command)?.status.success());
    Ok(())
}

#[test]
fn it_is_roots_alone_from_its_first_instant() -> Result<()> {
    let _alone = alone();
    let lab = Lab::without_agents(village("slhsock"))?;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let socket = folder.path().join("made/by/the/agent.sock");
    let node = lab.world.node("node1")?;
    let mut process = Process::spawn(node.ns(), agent(&lab, &socket)?.stderr(Stdio::null()))?;
    let deadline = Instant::now() + Duration::from_secs(15);
    // Every mode that it ever has, from a loop that does nothing else, until somebody is let in.
    let (mut seen, mut looks) = (Vec::new(), 0);
    while UnixStream::connect(&socket).is_err() || looks < 1000 {
        ensure!(Instant::now() < deadline, "no socket");
        if let Ok(meta) = fs::symlink_metadata(&socket) {
            seen.push((meta.mode() & 0o7777, meta.uid()));
            looks += 1;
        }
    }
    seen.dedup();
    assert_eq!(seen, [(0o600, 0)]);
    for made in ["made", "made/by", "made/by/the"] {
        assert_eq!(fs::metadata(folder.path().join(made))?.mode() & 0o7777, 0o755, "{made}");
    }
    // A copy that nobody may read too.
    let program = folder.path().join("policy-agent");
    fs::copy(&lab.binary, &program)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let told = as_nobody(&program, &socket)?;
    assert!(told.contains("Permission denied"), "{told}");
    // Whoever opens the file to everybody opens nothing.
    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    let told = as_nobody(&program, &socket)?;
    let hung_up = ["closed the connection", "reset", "Broken pipe"];
    assert!(hung_up.iter().any(|words| told.contains(words)), "{told}");
    assert!(Command::new(&program).arg("status").arg("--socket").arg(&socket).output()?.status.success());
    uninstall(&lab, &socket)?;
    process.stop(Duration::from_secs(5))?;
    assert!(!socket.exists());
    Ok(())
}

fn as_nobody(program: &Path, socket: &Path) -> Result<String> {
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    let mut command = Command::new("setpriv");
    let output = command.args(user).arg(program).arg("status").arg("--socket").arg(socket).output()?;
    ensure!(!output.status.success(), "it was answered: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What an agent says that finds something in its way.
fn refuses(lab: &Lab, socket: &Path) -> Result<String> {
    let node = lab.world.node("node1")?;
    let Output { status, stderr, .. } = node.ns().output(&mut agent(lab, socket)?)?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    Ok(String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn what_is_in_its_way_stays_and_is_named() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhway"))?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "somebody's")?;
    symlink(at("nowhere"), at("dangling"))?;
    symlink(at("file"), at("link"))?;
    symlink(lab.agents[0].socket(), at("to-a-socket"))?;
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::create_dir(at("folder"))?;
    for name in ["file", "dangling", "link", "to-a-socket", "pipe", "folder"] {
        let told = refuses(&lab, &at(name))?;
        assert!(
            told.contains(&at(name).display().to_string()) && told.contains("no socket"),
            "{name}: {told}"
        );
        assert!(fs::symlink_metadata(at(name)).is_ok(), "{name}");
    }
    assert_eq!(fs::read_to_string(at("file"))?, "somebody's");
    assert!(!at("nowhere").exists());
    let told = refuses(&lab, &lab.agents[0].socket())?;
    assert!(told.contains("another agent is running on it"), "{told}");
    // Where others can write, they could put their own socket.
    fs::create_dir(at("open"))?;
    fs::set_permissions(at("open"), Permissions::from_mode(0o777))?;
    let told = refuses(&lab, &at("open/agent.sock"))?;
    assert!(told.contains("can be written by others (mode 777)"), "{told}");
    fs::create_dir(at("foreign"))?;
    std::os::unix::fs::chown(at("foreign"), Some(NOBODY), Some(NOBODY))?;
    let told = refuses(&lab, &at("foreign/agent.sock"))?;
    assert!(told.contains("belongs to user 65534"), "{told}");
    Ok(())
}

#[test]
fn a_socket_that_a_dead_agent_left_is_taken_over_and_only_its_own_is_removed() -> Result<()> {
    let _alone = alone();
    let mut lab = Lab::start(village("slhdead"))?;
    let socket = lab.agents[0].socket();
    lab.agent().kill()?;
    assert!(fs::symlink_metadata(&socket)?.file_type().is_socket(), "it died without a word");
    let node = lab.world.node("node1")?;
    let mut process = Process::spawn(node.ns(), agent(&lab, &socket)?.stderr(Stdio::null()))?;
    sluice_tests::agent_world::eventually(Duration::from_secs(15), || {
        Ok(UnixStream::connect(&socket).is_err().then(|| "nobody answers".to_owned()))
    })?;
    // Somebody else's, by the time that it stops.
    fs::remove_file(&socket)?;
    let other = UnixListener::bind(&socket)?;
    process.stop(Duration::from_secs(5))?;
    assert!(socket.exists());
    drop(other);
    fs::remove_file(&socket)?;
    Ok(())
}

/// A client, and what becomes of it.
fn client(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Everything until the agent hangs up.
fn answer(mut stream: UnixStream) -> Result<String> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn nonsense_gets_a_refusal_and_silence_an_end() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhnons"))?;
    let socket = lab.agents[0].socket();
    follows(&lab)?;
    let before = usage(&lab)?;
    let nested = "[".repeat(100_000);
    let garbage: [&[u8]; 9] = [
        b"\n",
        b"\0\0\0\0\n",
        b"\xff\xfe\xfd\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"request\": \"drop-everything\"}\n",
        b"{\"request\": \"cni\"}\n",
        b"{\"request\": \"log-level\", \"filter\": \"\x1b[31mloud\"}\n",
        b"{\"request\": \"cni\", \"operation\": \"check\", \"container_id\": 7}\n",
        nested.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = client(&socket)?;
        stream.write_all(bytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let answer = answer(stream)?;
        assert!(answer.starts_with("{\"error\":"), "{:?}: {answer}", String::from_utf8_lossy(bytes));
        assert!(!answer.trim_end().contains(|c: char| c.is_control()), "{answer:?}");
    }
    // Half a request, and nothing.
    for begin in [&b""[..], b"{\"request\":"] {
        let began = Instant::now();
        let mut stream = client(&socket)?;
        stream.write_all(begin)?;
        assert_eq!(answer(stream)?, "");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    // A line without an end is read up to a limit.
    let mut stream = client(&socket)?;
    let chunk = vec![b'x'; 1 << 20];
    let mut taken = 0;
    while taken < 100 << 20 {
        match stream.write(&chunk) {
            Ok(count) => taken += count,
            Err(_) => break,
        }
    }
    assert!(taken < 8 << 20, "{taken} bytes of a line were taken");
    drop(stream);
    follows(&lab)?;
    recovers(&lab, &before)
}

#[test]
fn a_thousand_that_are_silent_or_deaf_keep_nobody_out() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhmany"))?;
    let socket = lab.agents[0].socket();
    follows(&lab)?;
    let before = usage(&lab)?;
    // They ask and never read.
    let mut deaf = Vec::new();
    for request in ["status", "flows", "sync"].iter().cycle().take(60) {
        let mut stream = client(&socket)?;
        stream.write_all(format!("{{\"request\": \"{request}\"}}\n").as_bytes())?;
        deaf.push(stream);
    }
    let silent: Vec<UnixStream> = (0..1000).map(|_| client(&socket)).collect::<Result<_>>()?;
    let held = usage(&lab)?.descriptors.len() - before.descriptors.len();
    let began = Instant::now();
    // By itself: `policy-agent status` has two seconds' patience, and a dump of the flow table is under way.
    let mut stream = client(&socket)?;
    stream.write_all(b"{\"request\": \"status\"}\n")?;
    let status: serde_json::Value = serde_json::from_str(&answer(stream)?)?;
    let answered = began.elapsed();
    assert_eq!(status["status"]["synced"], true);
    let followed = follows(&lab)?;
    println!("beside 1,060 clients: status {answered:?}, a change {followed:?}; descriptors held: {held}");
    assert!(held <= 2 * 128 + 8, "{held} descriptors for clients");
    assert!(answered < Duration::from_secs(5), "{answered:?}");
    drop((deaf, silent));
    recovers(&lab, &before).context("after the crowd")
}
