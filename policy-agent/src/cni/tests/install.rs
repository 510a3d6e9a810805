use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::super::{Change, Changed, Entry, InstallError, Installer, Unready};

/// What kube-flannel's init container copies to each node.
pub(super) const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// Calico's, as its installer writes it, shortened by what has no other form than the rest.
const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {"container_settings":{"allow_ip_forwarding":false},"datastore_type":"kubernetes","ipam":{"assign_ipv4":"true","assign_ipv6":"false","type":"calico-ipam"},"mtu":0,"nodename":"node1","policy":{"type":"k8s"},"type":"calico"},
    {"capabilities":{"bandwidth":true},"type":"bandwidth"},
    {"capabilities":{"portMappings":true},"snat":true,"type":"portmap"}
  ]
}"#;

const BRIDGE: &str = r#"{
	"cniVersion": "1.0.0",
	"name": "mynet",
	"type": "bridge",
	"bridge": "cni0",
	"ipam": { "type": "host-local", "subnet": "10.22.0.0/16" }
}
"#;

const MULTUS: &str =
    r#"{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus", "delegates": []}"#;

pub(super) struct Host {
    folder: TempDir,
    pub(super) installer: Installer,
}

impl Host {
    /// A host with these network configurations, and nothing of ours.
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (conf_dir, bin_dir) = (folder.path().join("net.d"), folder.path().join("bin"));
        fs::create_dir(&conf_dir).unwrap();
        fs::create_dir(&bin_dir).unwrap();
        for (name, text) in files {
            fs::write(conf_dir.join(name), text).unwrap();
        }
        Self { folder, installer: Installer { conf_dir, bin_dir, entry: Entry::default() } }
    }

    pub(super) fn install(&self) -> Result<Changed, InstallError> {
        self.installer.install(&std::env::current_exe().unwrap())
    }

    /// Installed, and no word of the program, which the test program is large for.
    fn entry(&self) -> Vec<Change> {
        self.program();
        self.installer.ensure().unwrap().changes
    }

    /// Something in the program's place.
    pub(super) fn program(&self) {
        fs::write(self.installer.bin_dir.join("sluice"), "").unwrap();
    }

    fn uninstall(&self) -> Changed {
        self.installer.uninstall(true).unwrap()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.installer.conf_dir.join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.installer.conf_dir).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn error(&self) -> String {
        self.program();
        self.installer.ensure().unwrap_err().to_string()
    }
}

pub(super) fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let plugins = list["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn flannels_list_gets_one_line_and_loses_it_again() {
    let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let after = vec!["flannel".to_owned(), "portmap".to_owned()];
    let file = host.installer.conf_dir.canonicalize().unwrap().join("10-flannel.conflist");
    assert_eq!(host.entry(), [Change::EntryAdded { file: file.clone(), after }]);
    let portmap = "        \"portMappings\": true\n      }\n    }";
    let line =
        r#"{"type": "sluice", "socket": "/run/sluice/agent.sock", "timeout": "5s", "unready": "closed"}"#;
    let wanted = FLANNEL.replace(portmap, &format!("{portmap},\n    {line}"));
    assert_eq!(host.read("10-flannel.conflist"), wanted);
    assert_eq!(host.entry(), []);
    assert_eq!(host.uninstall().changes, [Change::EntryRemoved { file }]);
    assert_eq!(host.read("10-flannel.conflist"), FLANNEL);
    assert_eq!(host.uninstall(), Changed::default());
    assert_eq!(host.files(), ["10-flannel.conflist"]);
}

#[test]
fn every_list_comes_out_as_it_went_in() {
    let one = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#;
    let spaced = "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[ {\"type\":\"a\"} ,\r\n\t{\"type\":\"b\"} ] , \"z\": 1e400}";
    let newest = r#"{"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.1.0", "1.0.0"], "name": "n", "plugins": [
        {"type": "loopback", "x": "plugins: [{\"type\": \"sluice\"}]", "big": 123456789012345678901234567890, "ü": "\u00fc"}
    ], "disableCheck": true}"#;
    for text in [FLANNEL, CALICO, one, spaced, newest] {
        let host = Host::with(&[("a.conflist", text)]);
        let before = types(&text.replace("1e400", "1"));
        assert_eq!(host.entry().len(), 1);
        let chained = host.read("a.conflist");
        assert_eq!(types(&chained.replace("1e400", "1")), [before, vec!["sluice".to_owned()]].concat());
        host.uninstall();
        assert_eq!(host.read("a.conflist"), text);
    }
}

#[test]
fn an_entry_is_brought_up_to_date_where_it_is_and_what_others_did_meanwhile_stays() {
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    host.entry();
    // Somebody puts a plugin behind ours, and another network's name in.
    let changed = host
        .read("10-flannel.conflist")
        .replace("\n  ]\n", ",\n    {\"type\": \"tuning\"}\n  ]\n")
        .replace("cbr0", "net1");
    fs::write(host.path("10-flannel.conflist"), &changed).unwrap();
    host.installer.entry = Entry {
        socket: "/run/other.sock".into(),
        timeout: Duration::from_millis(1500),
        unready: Unready::Open,
    };
    let file = host.installer.conf_dir.canonicalize().unwrap().join("10-flannel.conflist");
    assert_eq!(host.entry(), [Change::EntryUpdated { file }]);
    let text = host.read("10-flannel.conflist");
    assert_eq!(types(&text), ["flannel", "portmap", "sluice", "tuning"]);
    assert!(text.contains(
        r#"{"type": "sluice", "socket": "/run/other.sock", "timeout": "1500ms", "unready": "open"}"#
    ));
    assert_eq!(host.entry(), []);
    host.uninstall();
    let wanted = FLANNEL.replace("\n  ]\n", ",\n    {\"type\": \"tuning\"}\n  ]\n").replace("cbr0", "net1");
    assert_eq!(host.read("10-flannel.conflist"), wanted);
}

#[test]
fn entries_are_found_wherever_they_stand() {
    let ours = r#"{"type":"sluice"}"#;
    let list = |plugins: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugins}]}}"#);
    let cases = [
        (format!("{ours}, {{\"type\":\"a\"}}"), "{\"type\":\"a\"}"),
        (format!("{ours},{ours}, {{\"type\":\"a\"}}"), "{\"type\":\"a\"}"),
        (
            format!("{{\"type\":\"a\"}}, {ours},{{\"type\":\"b\"}} , {ours}"),
            "{\"type\":\"a\"},{\"type\":\"b\"}",
        ),
        (format!("{ours},{{\"type\":\"a\"}},{ours},{ours}"), "{\"type\":\"a\"}"),
    ];
    for (plugins, wanted) in cases {
        let host = Host::with(&[("a.conflist", &list(&plugins))]);
        host.entry();
        let text = host.read("a.conflist");
        assert_eq!(types(&text).iter().filter(|kind| *kind == "sluice").count(), 1, "{plugins}: {text}");
        host.uninstall();
        assert_eq!(host.read("a.conflist"), list(wanted), "{plugins}");
        let host = Host::with(&[("a.conflist", &list(&plugins))]);
        host.uninstall();
        assert_eq!(host.read("a.conflist"), list(wanted), "{plugins}");
    }
    let host = Host::with(&[("a.conflist", &list(ours))]);
    let error = host.installer.uninstall(true).unwrap_err().to_string();
    assert!(error.contains("no other plugin than ours"), "{error}");
}

#[test]
fn the_first_file_by_name_is_the_one_in_use() {
    let host = Host::with(&[
        ("20-other.conflist", CALICO),
        ("10-flannel.conflist", FLANNEL),
        ("05-first.yaml", "no: configuration"),
        ("00-notes.txt", "nor this"),
    ]);
    fs::create_dir(host.path("01-folder.conflist")).unwrap();
    host.entry();
    assert!(host.read("10-flannel.conflist").contains("sluice"));
    assert_eq!(host.read("20-other.conflist"), CALICO);
    // Another network takes over: its list gets the entry as well, and uninstall finds both.
    fs::write(host.path("06-newer.conflist"), CALICO).unwrap();
    assert_eq!(host.entry().len(), 1);
    assert!(host.read("06-newer.conflist").contains("sluice"));
    assert_eq!(host.uninstall().changes.len(), 2);
    assert_eq!(
        (host.read("06-newer.conflist"), host.read("10-flannel.conflist")),
        (CALICO.to_owned(), FLANNEL.to_owned())
    );
    assert_eq!(host.read("05-first.yaml"), "no: configuration");
}

#[test]
fn a_list_stands_in_for_a_single_plugin_file_until_uninstall() {
    for name in ["10-bridge.conf", "10-bridge.json"] {
        let host = Host::with(&[(name, BRIDGE), ("20-other.conflist", FLANNEL)]);
        let aside = format!("{name}.sluice-original");
        let real = host.installer.conf_dir.canonicalize().unwrap();
        let file = real.join("10-bridge.conflist");
        assert_eq!(host.entry(), [Change::Wrapped { original: real.join(&aside), file: file.clone() }]);
        let mut files = ["10-bridge.conflist", &aside, "20-other.conflist"];
        files.sort_unstable();
        assert_eq!(host.files(), files);
        let list: Value = serde_json::from_str(&host.read("10-bridge.conflist")).unwrap();
        assert_eq!((list["cniVersion"].as_str(), list["name"].as_str()), (Some("1.0.0"), Some("mynet")));
        assert_eq!(list["plugins"][0], serde_json::from_str::<Value>(BRIDGE).unwrap());
        assert_eq!(list["plugins"][1]["wraps"], *name);
        assert_eq!(host.entry(), []);
        // Its owner writes it anew: the list follows.
        let newer = BRIDGE.replace("10.22.", "10.33.");
        fs::write(host.path(name), &newer).unwrap();
        assert_eq!(host.entry().len(), 1);
        assert!(host.read("10-bridge.conflist").contains("10.33."));
        let unwrapped = [Change::Unwrapped { original: real.join(name), file }];
        assert_eq!(host.uninstall().changes, unwrapped);
        assert_eq!(host.read(name), newer);
        assert_eq!(host.files(), [name, "20-other.conflist"]);
        assert_eq!(host.read("20-other.conflist"), FLANNEL);
    }
}

#[test]
fn a_list_that_others_changed_is_not_replaced_by_the_file_it_was_made_of() {
    let host = Host::with(&[("10-bridge.conf", BRIDGE)]);
    host.entry();
    let changed = host.read("10-bridge.conflist").replace("\n  ]\n", ",\n    {\"type\": \"tuning\"}\n  ]\n");
    fs::write(host.path("10-bridge.conflist"), changed).unwrap();
    let done = host.uninstall();
    assert!(done.notes.iter().any(|note| note.contains("changed since")), "{done:?}");
    assert_eq!(types(&host.read("10-bridge.conflist")), ["bridge", "tuning"]);
    assert_eq!(host.read("10-bridge.conf.sluice-original"), BRIDGE);
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_not_followed() {
    let host = Host::with(&[(
        "a.conflist",
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"sluice","wraps":"../secret"}]}"#,
    )]);
    let secret = host.folder.path().join("secret.sluice-original");
    fs::write(&secret, "{\"type\":\"a\"}").unwrap();
    host.uninstall();
    assert_eq!(types(&host.read("a.conflist")), ["a"]);
    assert!(secret.exists() && !host.folder.path().join("secret").exists());
}

#[test]
fn multus_is_chained_behind_like_any_other_and_the_note_says_what_that_means() {
    let host = Host::with(&[("00-multus.conf", MULTUS), ("10-flannel.conflist", FLANNEL)]);
    host.program();
    let changed = host.installer.ensure().unwrap();
    assert_eq!(types(&host.read("00-multus.conflist")), ["multus", "sluice"]);
    assert!(changed.notes.iter().any(|note| note.contains("multus")), "{changed:?}");
    assert_eq!(host.read("10-flannel.conflist"), FLANNEL);
}

#[test]
fn what_cannot_take_an_entry_is_named_and_left_alone() {
    let list = |head: &str, plugins: &str| format!("{{{head}\"name\": \"n\", \"plugins\": {plugins}}}");
    let good = "\"cniVersion\": \"1.0.0\", ";
    let cases = [
        ("a.conflist", "{".to_owned(), "no JSON"),
        ("a.conflist", String::new(), "no JSON"),
        ("a.conflist", "[]".to_owned(), "no JSON"),
        ("a.conflist", format!("{}{}", '\u{feff}', FLANNEL), "no JSON"),
        ("a.conflist", FLANNEL.replace("\"name\"", "\"plugins\": [], \"name\""), "duplicate field"),
        ("a.conflist", BRIDGE.to_owned(), "no plugins"),
        ("a.conflist", list(good, "[]"), "no plugins"),
        ("a.conflist", list(good, "null"), "no plugins"),
        ("a.conflist", list(good, "{}"), "no JSON"),
        ("a.conflist", list(good, "[{}]"), "plugins[0] has no type"),
        ("a.conflist", list("", "[{\"type\": \"a\"}]"), "cniVersion (none)"),
        ("a.conflist", list("\"cniVersion\": \"0.2.0\", ", "[{\"type\": \"a\"}]"), "cniVersion 0.2.0"),
        (
            "a.conflist",
            list("\"cniVersion\": \"1.0.0\", \"cniVersions\": [\"2.0.0\"], ", "[{\"type\": \"a\"}]"),
            "cniVersion 2.0.0",
        ),
        ("a.conf", FLANNEL.to_owned(), "list of plugins under the name of a single plugin"),
        ("a.conf", "{\"cniVersion\": \"1.0.0\", \"name\": \"n\"}".to_owned(), "has no type"),
        ("a.conf", "{\"cniVersion\": \"1.0.0\", \"type\": \"a\"}".to_owned(), "has no name"),
        ("a.json", BRIDGE.replace("1.0.0", "0.1.0"), "cniVersion 0.1.0"),
        ("a.conf", "{".to_owned(), "no JSON"),
    ];
    for (name, text, words) in cases {
        let host = Host::with(&[(name, &text)]);
        let error = host.error();
        assert!(error.contains(name) && error.contains(words), "{text}: {error}");
        host.uninstall();
        assert_eq!(host.read(name), text);
        assert_eq!(host.files(), [name]);
    }
    let large = format!("{FLANNEL}{}", " ".repeat(1 << 20));
    let error = Host::with(&[("a.conflist", &large)]).error();
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    let error = Host::with(&[]).error();
    assert!(error.contains("no network configuration yet") && error.contains("--wait"), "{error}");
    let host = Host::with(&[("a.conflist", FLANNEL)]);
    let error = host.installer.ensure().unwrap_err().to_string();
    assert!(error.contains("the program is not installed"), "{error}");
    assert_eq!(host.read("a.conflist"), FLANNEL);
}

#[test]
fn a_list_of_somebody_else_in_the_place_of_ours_is_left_alone() {
    let host = Host::with(&[("10-bridge.conf", BRIDGE), ("10-bridge.conflist", FLANNEL)]);
    assert!(host.error().contains("not of our making"));
    // It would be the first when the file is kept aside, before the list that stands in for it.
    let other = Host::with(&[("10-bridge.conf", BRIDGE), ("10-bridge.conf.conf", BRIDGE)]);
    assert!(other.error().contains("not of our making"));
    assert_eq!(
        (host.read("10-bridge.conf"), host.read("10-bridge.conflist")),
        (BRIDGE.to_owned(), FLANNEL.to_owned())
    );
    assert_eq!(other.files(), ["10-bridge.conf", "10-bridge.conf.conf"]);
}

#[test]
fn links_are_followed_within_the_folder_only() {
    let host = Host::with(&[("flannel.template", FLANNEL)]);
    symlink("flannel.template", host.path("10-flannel.conflist")).unwrap();
    assert_eq!(host.entry().len(), 1);
    assert!(
        host.path("10-flannel.conflist").is_symlink() && host.read("flannel.template").contains("sluice")
    );
    host.uninstall();
    assert_eq!(host.read("flannel.template"), FLANNEL);

    let elsewhere = host.folder.path().join("elsewhere.conflist");
    fs::write(&elsewhere, FLANNEL).unwrap();
    fs::remove_file(host.path("10-flannel.conflist")).unwrap();
    symlink(&elsewhere, host.path("10-flannel.conflist")).unwrap();
    assert!(host.error().contains("leads out of the folder"), "{}", host.error());
    host.uninstall();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), FLANNEL);

    let host = Host::with(&[("bridge.template", BRIDGE)]);
    symlink("bridge.template", host.path("10-bridge.conf")).unwrap();
    assert!(host.error().contains("is a link"), "{}", host.error());

    // A folder that is reached by a link, as k3s has it, is a folder.
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let link = host.folder.path().join("link");
    symlink(&host.installer.conf_dir, &link).unwrap();
    host.installer.conf_dir = link;
    assert_eq!(host.entry().len(), 1);
}

#[test]
fn mode_and_owner_stay() {
    let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    fs::set_permissions(host.path("10-flannel.conflist"), fs::Permissions::from_mode(0o640)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(host.path("10-flannel.conflist"), Some(1234), Some(5678)).unwrap();
    }
    host.entry();
    let metadata = fs::metadata(host.path("10-flannel.conflist")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    if root {
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
    }
}

#[test]
fn the_program_is_a_copy_that_only_its_own_kind_replaces() {
    let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let program = host.installer.bin_dir.join("sluice");
    let changed = host.install().unwrap();
    assert_eq!(changed.changes.len(), 2, "{changed:?}");
    assert_eq!(changed.changes[0], Change::ProgramInstalled { file: program.clone() });
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(host.install().unwrap(), Changed::default());
    // Another build of ours.
    let mut bytes = fs::read(&program).unwrap();
    bytes.push(0);
    fs::write(&program, &bytes).unwrap();
    assert_eq!(host.install().unwrap().changes.len(), 1);
    let done = host.installer.uninstall(false).unwrap();
    assert_eq!(done.changes.len(), 2, "{done:?}");
    assert_eq!(fs::read_dir(&host.installer.bin_dir).unwrap().count(), 0);
    assert_eq!(host.installer.uninstall(false).unwrap(), Changed::default());

    // Somebody else's.
    fs::write(&program, "#!/bin/sh\n").unwrap();
    assert!(host.install().unwrap_err().to_string().contains("not of our making"));
    assert!(host.installer.uninstall(false).unwrap_err().to_string().contains("not of our making"));
    assert_eq!(fs::read_to_string(&program).unwrap(), "#!/bin/sh\n");
    fs::remove_file(&program).unwrap();
    symlink(std::env::current_exe().unwrap(), &program).unwrap();
    assert!(host.install().is_err() && program.is_symlink());
    assert_eq!(host.read("10-flannel.conflist"), FLANNEL);
}

#[test]
fn folders_that_are_not_there_are_named_and_uninstall_has_nothing_to_do() {
    let mut host = Host::with(&[]);
    host.installer.conf_dir = host.folder.path().join("nowhere");
    assert!(host.error().contains("nowhere"));
    host.installer.bin_dir = host.folder.path().join("neither");
    assert!(host.install().unwrap_err().to_string().contains("neither"));
    assert_eq!(host.installer.uninstall(false).unwrap(), Changed::default());
}

#[test]
fn one_folder_for_both_is_no_trap() {
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    host.installer.bin_dir = host.installer.conf_dir.clone();
    host.install().unwrap();
    assert_eq!(host.installer.uninstall(false).unwrap().changes.len(), 2);
    assert_eq!(host.files(), ["10-flannel.conflist"]);
}

/// How a writer that knows nothing of us changes the file.
type Writer = fn(&Path, &str);

fn in_place(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn by_rename(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn what_others_write_at_the_same_time_is_never_lost() {
    for write in [in_place as Writer, by_rename] {
        let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
        host.program();
        let done = AtomicBool::new(false);
        let path = host.path("10-flannel.conflist");
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..1000 {
                    write(&path, &FLANNEL.replace("cbr0", &format!("net{n}")));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                // It may find nothing but half-written files.
                let _ = host.installer.ensure();
            }
        });
        host.installer.ensure().unwrap();
        let text = host.read("10-flannel.conflist");
        assert_eq!(types(&text), ["flannel", "portmap", "sluice"]);
        assert!(text.contains("net999"), "{text}");
        assert_eq!(host.files(), ["10-flannel.conflist"]);
    }
}

#[test]
fn several_installers_at_once_make_one_entry() {
    let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    host.program();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| host.installer.ensure().unwrap());
        }
    });
    assert_eq!(types(&host.read("10-flannel.conflist")), ["flannel", "portmap", "sluice"]);
}
