//! The watcher with real files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::*;

struct Watched {
    dir: tempfile::TempDir,
    watch: FolderWatch,
}

impl Watched {
    /// A folder with a.yaml in it.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("m")).expect("a folder");
        fs::write(dir.path().join("m/a.yaml"), "a: 1").expect("a file");
        let watch = FolderWatch::new(dir.path().join("m")).expect("a watch");
        Self { dir, watch }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    /// How long the next change took to be told.
    async fn told(&mut self) -> Duration {
        let start = Instant::now();
        timeout(Duration::from_secs(6), self.watch.changed()).await.expect("a change is told");
        start.elapsed()
    }

    async fn quiet(&mut self, time: u64) {
        let told = timeout(Duration::from_millis(time), self.watch.changed()).await;
        assert!(told.is_err(), "nothing has changed");
    }
}

#[tokio::test]
async fn a_write_in_place_is_told_once_it_is_closed() {
    let mut it = Watched::new();
    it.quiet(100).await;
    let mut file = OpenOptions::new().write(true).truncate(true).open(it.at("a.yaml")).expect("a file");
    for _ in 0..7 {
        file.write_all(b"# half\n").expect("written");
        it.quiet(100).await;
    }
    drop(file);
    assert!(it.told().await < Duration::from_millis(400));
    it.quiet(300).await;
}

#[tokio::test]
async fn a_writer_that_does_not_close_holds_for_two_seconds() {
    let mut it = Watched::new();
    let mut file = fs::File::create(it.at("b.yaml")).expect("a file");
    file.write_all(b"a: 1").expect("written");
    let took = it.told().await;
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(4), "{took:?}");
    drop(file);
    it.told().await;
}

#[tokio::test]
async fn renames_links_and_deletions_are_told_at_once() {
    let mut it = Watched::new();
    let soon = Duration::from_millis(400);
    fs::write(it.at("a.tmp"), "a: 2").expect("a file");
    it.quiet(100).await;
    fs::rename(it.at("a.tmp"), it.at("a.yaml")).expect("renamed");
    assert!(it.told().await < soon);
    fs::remove_file(it.at("a.yaml")).expect("removed");
    fs::write(it.at("a.yaml"), "a: 3").expect("a file");
    assert!(it.told().await < soon);
    it.quiet(200).await;
    fs::hard_link(it.at("a.yaml"), it.at("b.yaml")).expect("a link");
    assert!(it.told().await < soon);
    symlink("a.yaml", it.at("c.yaml")).expect("a link");
    assert!(it.told().await < soon);
    fs::remove_file(it.at("b.yaml")).expect("removed");
    assert!(it.told().await < soon);
}

#[tokio::test]
async fn an_editors_own_files_are_no_change() {
    let mut it = Watched::new();
    fs::write(it.at(".a.yaml.swp"), "x").expect("a file");
    fs::write(it.at("4913"), "x").expect("a file");
    fs::remove_file(it.at("4913")).expect("removed");
    symlink("nobody@nowhere", it.at(".#a.yaml")).expect("a link");
    fs::read(it.at("a.yaml")).expect("reading is no change");
    // The lock is a link to nowhere that has come: one look more does no harm.
    let _ = timeout(Duration::from_millis(300), it.watch.changed()).await;
    it.quiet(300).await;
    // An editor that keeps its swap file open holds nobody up.
    let mut swap = fs::File::create(it.at(".b.yaml.swp")).expect("a file");
    swap.write_all(b"x").expect("written");
    fs::write(it.at("a.yaml"), "a: 4").expect("a file");
    assert!(it.told().await < Duration::from_millis(400));
}

#[tokio::test]
async fn many_changes_are_told_together_but_in_time() {
    let mut it = Watched::new();
    let path = it.at("a.yaml");
    let writer = tokio::spawn(async move {
        for round in 0..60 {
            fs::write(&path, format!("a: {round}")).expect("a file");
            sleep(Duration::from_millis(20)).await;
        }
    });
    let took = it.told().await;
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(1000), "{took:?}");
    writer.await.expect("written");
    it.told().await;
    it.quiet(200).await;
}

#[tokio::test]
async fn a_configmaps_swap() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let fill = |name: &str| {
        fs::create_dir(at(name)).expect("a folder");
        fs::write(at(name).join("p.yaml"), name).expect("a file");
    };
    fill("..1");
    symlink("..1", at("..data")).expect("a link");
    symlink("..data/p.yaml", at("p.yaml")).expect("a link");
    let mut it = Watched { watch: FolderWatch::new(dir.path()).expect("a watch"), dir };
    let at = |name: &str| it.dir.path().join(name);
    fs::create_dir(at("..2")).expect("a folder");
    fs::write(at("..2/p.yaml"), "2").expect("a file");
    symlink("..2", at("..data_tmp")).expect("a link");
    fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
    fs::remove_dir_all(at("..1")).expect("removed");
    assert!(it.told().await < Duration::from_millis(500));
    it.quiet(2500).await;
}

#[tokio::test]
async fn a_file_behind_a_link_is_found_by_looking() {
    let mut it = Watched::new();
    let target = it.root().join("target.yaml");
    fs::write(&target, "a: 1").expect("a file");
    symlink(&target, it.at("b.yaml")).expect("a link");
    it.told().await;
    fs::write(&target, "a: 22").expect("a file");
    assert!(it.told().await < Duration::from_secs(3));
    it.quiet(2500).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced() {
    let mut it = Watched::new();
    let (m, other) = (it.root().join("m"), it.root().join("other"));
    // Removed, and made anew.
    fs::remove_dir_all(&m).expect("removed");
    it.told().await;
    it.quiet(500).await;
    fs::create_dir(&m).expect("a folder");
    it.told().await;
    fs::write(m.join("a.yaml"), "a: 2").expect("a file");
    assert!(it.told().await < Duration::from_millis(400), "the new one is watched");
    // Renamed over.
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("a.yaml"), "a: 3").expect("a file");
    fs::rename(&m, it.root().join("old")).expect("renamed");
    fs::rename(&other, &m).expect("renamed");
    it.told().await;
    fs::write(m.join("a.yaml"), "a: 4").expect("a file");
    it.told().await;
    it.quiet(300).await;
    // What happens in the old one is no matter.
    fs::write(it.root().join("old/a.yaml"), "a: 5").expect("a file");
    it.quiet(300).await;
}

#[tokio::test]
async fn a_folder_behind_a_link_that_is_turned() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("1")).expect("a folder");
    fs::create_dir(at("2")).expect("a folder");
    symlink("1", at("m")).expect("a link");
    let watch = FolderWatch::new(at("m")).expect("a watch");
    symlink("2", at("new")).expect("a link");
    fs::rename(at("new"), at("m")).expect("renamed");
    let mut it = Watched { dir: root, watch };
    assert!(it.told().await < Duration::from_secs(3));
    fs::write(it.root().join("2/a.yaml"), "a: 1").expect("a file");
    assert!(it.told().await < Duration::from_millis(400));
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet() {
    let root = tempfile::tempdir().expect("a folder");
    let m = root.path().join("m");
    let mut it = Watched { watch: FolderWatch::new(&m).expect("a watch"), dir: root };
    it.quiet(500).await;
    fs::create_dir(&m).expect("a folder");
    it.told().await;
    fs::write(m.join("a.yaml"), "a: 1").expect("a file");
    assert!(it.told().await < Duration::from_millis(400));
}

#[tokio::test]
async fn without_inotify_changes_are_found_by_looking() {
    let mut it = Watched::new();
    it.watch = FolderWatch::by_looking(it.at("")).expect("a watch");
    for content in ["a: 22", "a: 333"] {
        fs::write(it.at("a.yaml"), content).expect("a file");
        assert!(it.told().await < Duration::from_secs(3));
    }
    fs::remove_file(it.at("a.yaml")).expect("removed");
    assert!(it.told().await < Duration::from_secs(3));
    it.quiet(2500).await;
}

#[test]
fn a_watch_may_be_another_tasks() {
    fn is_send<T: Send>() {}
    is_send::<FolderWatch>();
}

#[test]
fn without_a_runtime_there_is_an_error() {
    assert!(FolderWatch::new("/").is_err());
}
