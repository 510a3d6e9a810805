use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::keep_installed;
use super::install::{FLANNEL, Host, types};

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

async fn chained_within(limit: Duration, path: &Path) {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.contains("\"sluice\"") {
            assert_eq!(types(&text), ["flannel", "portmap", "sluice"]);
            return;
        }
        assert!(start.elapsed() < limit, "no entry after {limit:?}: {text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_rewrite_is_repaired_within_a_second_and_what_is_gone_is_not_made_again() {
    run(async {
        let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
        host.program();
        let path = host.path("10-flannel.conflist");
        let keeper = tokio::spawn(keep_installed(host.installer.clone()));
        chained_within(Duration::from_secs(5), &path).await;
        // As `cp -f` does it, and as a careful program does.
        for n in 0..4 {
            let text = FLANNEL.replace("cbr0", &format!("net{n}"));
            if n % 2 == 0 {
                fs::write(&path, &text).unwrap();
            } else {
                fs::write(host.path(".new"), &text).unwrap();
                fs::rename(host.path(".new"), &path).unwrap();
            }
            chained_within(Duration::from_secs(1), &path).await;
            assert!(host.read("10-flannel.conflist").contains(&format!("net{n}")));
        }
        fs::remove_file(&path).unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!path.exists());
        // A network that comes back is chained again.
        fs::write(&path, FLANNEL).unwrap();
        chained_within(Duration::from_secs(1), &path).await;
        keeper.abort();
    });
}

#[test]
fn after_uninstall_nothing_is_put_back() {
    run(async {
        let host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
        host.install().unwrap();
        let keeper = tokio::spawn(keep_installed(host.installer.clone()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.installer.uninstall(false).unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(host.read("10-flannel.conflist"), FLANNEL);
        keeper.abort();
    });
}
