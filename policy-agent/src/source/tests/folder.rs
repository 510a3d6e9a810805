//! Real folders.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn names(read: &FolderRead) -> Vec<&str> {
    read.files.iter().map(|file| file.name.as_str()).collect()
}

#[test]
fn manifests_by_extension_and_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    for name in ["b.yaml", "a.json", "c.yml", "d.txt", "e.yaml~", ".f.yaml.swp", ".g.yaml"] {
        fs::write(at(name), "").expect("a file");
    }
    fs::create_dir(at("h.yaml")).expect("a folder");
    fs::write(at("h.yaml/i.yaml"), "").expect("a file");
    symlink("nowhere", at(".#b.yaml")).expect("a link");
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let read = read_folder(dir.path());
    assert_eq!(read.problem, None);
    assert_eq!(names(&read), [".g.yaml", "a.json", "b.yaml", "c.yml", "pipe.yaml"]);
    // One that took the place of a policy's file must not end the policy.
    let pipe = read.files.last().expect("the pipe");
    assert_eq!(texts(&pipe.problems), ["pipe.yaml: can't be read: it is no regular file"]);
    assert!(pipe.unknown);
}

#[test]
fn a_mounted_configmap() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("..2026_01")).expect("a folder");
    fs::write(at("..2026_01/p.yaml"), pod_text("p", "10.0.0.1")).expect("a file");
    symlink("..2026_01", at("..data")).expect("a link");
    symlink("..data/p.yaml", at("p.yaml")).expect("a link");
    let mut store = Store::default();
    store.update(read_folder(dir.path()));
    assert!(store.cluster().pods.contains(&dev("p")));
}

#[test]
fn what_cannot_be_read_is_told_and_keeps_its_objects() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), pod_text("p", "10.0.0.1")).expect("a file");
    let mut store = Store::default();
    store.update(read_folder(dir.path()));
    fs::remove_file(at("a.yaml")).expect("removed");
    symlink("nowhere", at("a.yaml")).expect("a link");
    store.update(read_folder(dir.path()));
    assert_eq!(texts(store.problems()), ["a.yaml: can't be read: No such file or directory (os error 2)"]);
    assert!(store.cluster().pods.contains(&dev("p")));

    let missing = at("missing");
    store.update(read_folder(&missing));
    let first = store.problems()[0].to_string();
    assert_eq!(
        first,
        format!("{}: the folder can't be read: No such file or directory (os error 2)", missing.display())
    );
    assert!(store.cluster().pods.contains(&dev("p")));

    fs::remove_file(at("a.yaml")).expect("removed");
    store.update(read_folder(dir.path()));
    assert_eq!((store.cluster(), store.problems()), (&Cluster::default(), &[][..]));
}

#[test]
fn files_without_permission_and_without_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let large = fs::File::create(at("large.yaml")).expect("a file");
    large.set_len(100 << 30).expect("a hole");
    fs::write(at("secret.yaml"), "a: [").expect("a file");
    fs::set_permissions(at("secret.yaml"), fs::Permissions::from_mode(0o000)).expect("permissions");
    let read = read_folder(dir.path());
    let found: Vec<String> = read.files.iter().flat_map(|f| &f.problems).map(ToString::to_string).collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], "large.yaml: can't be read: it is larger than 64 MiB");
    assert!(read.files.iter().all(|file| file.unknown));
}

/// Whoever renames new content over a file is never read halfway: all of one moment, or all of the next.
#[test]
fn a_folder_that_changes_is_one_moments() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_owned();
    let write = |round: usize| {
        let new = path.join("new");
        fs::create_dir_all(path.join(format!("..{round}"))).expect("a folder");
        for name in ["p", "q"] {
            let text = pod_text(name, &format!("10.0.{round}.1"))
                .replace("name: ", &format!("uid: \"{round}\", name: "));
            fs::write(path.join(format!("..{round}/{name}.yaml")), text).expect("a file");
        }
        symlink(format!("..{round}"), &new).expect("a link");
        fs::rename(&new, path.join("..data")).expect("renamed");
    };
    write(0);
    for name in ["p", "q"] {
        symlink(format!("..data/{name}.yaml"), path.join(format!("{name}.yaml"))).expect("a link");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..100 {
                write(round);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        for _ in 0..10 {
            let mut store = Store::default();
            store.update(read_folder(&path));
            let uids: Vec<&str> = store.cluster().pods.values().map(|p| p.uid.as_str()).collect();
            assert_eq!(uids.len(), 2);
            assert_eq!(uids[0], uids[1]);
        }
    });
}
