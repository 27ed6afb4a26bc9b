//! Tests on a real directory: every way in which files are replaced, each waited for with a deadline.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use mesh_common::model::ObjectKey;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::reading::Trust;
use super::*;
use crate::config::Change;

/// How long a change may take to arrive before the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than any test: nothing but an event can bring a change in time.
const NEVER: Duration = Duration::from_secs(3600);

fn workload(name: &str, address: &str) -> String {
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ node: node-a, addresses: [{address}] }}\n"
    )
}

/// A change in short: the name with its first address, or with a minus when it is gone.
fn short(change: &Change) -> String {
    match change {
        Change::PutWorkload(workload) => format!("{} {}", workload.key.name, workload.addresses[0]),
        Change::RemoveWorkload(key) => format!("-{}", key.name),
        other => format!("{other:?}"),
    }
}

fn run(test: impl Future<Output = ()>) {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// A source that runs on a directory of its own.
struct Fixture {
    dir: TempDir,
    updates: mpsc::Receiver<Update>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Fixture {
    /// Starts on what `prepare` puts into the directory, which must be `web 10.1.0.1`.
    fn start(rescan: Duration, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(SETTLE, rescan, prepare)
    }

    fn start_with(settle: Duration, rescan: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::create_dir(&path).unwrap();
        prepare(&path);
        let (mut source, first) = DirectorySource::open(&path).unwrap();
        source.settle = settle;
        source.rescan = rescan;
        assert_eq!(
            first.changes.iter().map(short).collect::<Vec<_>>(),
            ["web 10.1.0.1"]
        );
        assert_eq!(first.rejections, []);
        let (sender, updates) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let task = tokio::spawn(source.run(sender, stop.clone()));
        Self {
            dir,
            updates,
            stop,
            task,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Waits until all of these changes arrived, in whatever number of updates.
    async fn expect(&mut self, expected: &[&str]) -> Update {
        let mut seen = Vec::new();
        loop {
            let update = self.next().await;
            seen.extend(update.changes.iter().map(short));
            if seen.len() >= expected.len() {
                assert_eq!(seen, expected);
                return update;
            }
        }
    }

    async fn next(&mut self) -> Update {
        timeout(DEADLINE, self.updates.recv())
            .await
            .expect("no update in time")
            .expect("the source runs")
    }

    /// Stops the source and sees that it said nothing more.
    async fn finish(mut self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("it stops in time")
            .unwrap();
        assert_eq!(self.updates.recv().await, None);
    }
}

fn web_file(path: &Path) {
    fs::write(path.join("web.yaml"), workload("web", "10.1.0.1")).unwrap();
}

#[test]
fn a_directory_that_is_made_anew_is_watched_though_it_may_have_the_inode_of_the_old_one() {
    run(async {
        let mut source = Fixture::start(NEVER, web_file);
        source.write("api.yaml", &workload("api", "10.1.0.2"));
        source.expect(&["api 10.1.0.2"]).await;
        fs::remove_dir_all(source.path()).unwrap();
        fs::create_dir(source.path()).unwrap();
        web_file(&source.path());
        source.expect(&["-api"]).await;
        source.write("web.yaml", &workload("web", "10.1.0.3"));
        source.expect(&["web 10.1.0.3"]).await;
        source.finish().await;
    });
}

#[test]
fn files_are_written_replaced_renamed_and_deleted() {
    run(async {
        let mut source = Fixture::start(NEVER, web_file);
        source.write("web.yaml", &workload("web", "10.1.0.2"));
        source.expect(&["web 10.1.0.2"]).await;

        // As editors save: a new file under another name, then over the old one.
        source.write(".web.yaml.swp", &workload("web", "10.1.0.3"));
        fs::rename(
            source.path().join(".web.yaml.swp"),
            source.path().join("web.yaml"),
        )
        .unwrap();
        source.expect(&["web 10.1.0.3"]).await;

        // Or: the old one becomes the backup, and the new one takes its place.
        fs::rename(source.path().join("web.yaml"), source.path().join("web.yaml~")).unwrap();
        source.write("web.yaml", &workload("web", "10.1.0.4"));
        source.expect(&["web 10.1.0.4"]).await;

        source.write("db.json", "{\"apiVersion\": \"v1\"");
        let update = source.next().await;
        assert_eq!(update.rejections[0].file, Path::new("db.json"));
        source.write("db.json", &workload("db", "10.1.0.9"));
        let update = source.expect(&["db 10.1.0.9"]).await;
        assert_eq!(update.rejections, []);

        fs::remove_file(source.path().join("web.yaml")).unwrap();
        source.expect(&["-web"]).await;
        source.finish().await;
    });
}

#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let version = |path: &Path, number: u32, address: &str| {
        let data = path.join(format!("..2026_01_0{number}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("web.yaml"), workload("web", address)).unwrap();
        symlink(data.file_name().unwrap(), path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    run(async {
        let mut source = Fixture::start(NEVER, |path| {
            version(path, 1, "10.1.0.1");
            symlink("..data/web.yaml", path.join("web.yaml")).unwrap();
        });
        version(&source.path(), 2, "10.1.0.2");
        fs::remove_dir_all(source.path().join("..2026_01_01")).unwrap();
        source.expect(&["web 10.1.0.2"]).await;
        source.finish().await;
    });
}

#[test]
fn a_linked_file_that_changes_elsewhere_is_seen_at_the_next_look() {
    run(async {
        let mut source = Fixture::start(Duration::from_millis(100), |path| {
            let elsewhere = path.parent().unwrap().join("elsewhere");
            fs::write(&elsewhere, workload("web", "10.1.0.1")).unwrap();
            symlink(&elsewhere, path.join("web.yaml")).unwrap();
        });
        fs::write(source.dir.path().join("elsewhere"), workload("web", "10.1.0.2")).unwrap();
        source.expect(&["web 10.1.0.2"]).await;
        source.finish().await;
    });
}

#[test]
fn a_directory_that_goes_leaves_its_objects_and_one_that_comes_is_watched() {
    run(async {
        let mut source = Fixture::start(Duration::from_millis(100), web_file);
        let path = source.path();
        fs::rename(&path, source.dir.path().join("away")).unwrap();
        let update = source.next().await;
        assert_eq!(update.changes, []);
        assert_eq!(
            update.rejections[0].to_string(),
            format!(
                "{}: the configuration directory is gone; restore it; until then all objects stay as they were",
                path.display()
            )
        );

        fs::create_dir(source.dir.path().join("new")).unwrap();
        fs::write(source.dir.path().join("new/db.yaml"), workload("db", "10.1.0.9")).unwrap();
        fs::rename(source.dir.path().join("new"), &path).unwrap();
        let update = source.expect(&["-web", "db 10.1.0.9"]).await;
        assert_eq!(update.rejections, []);
        source.write("db.yaml", &workload("db", "10.1.0.8"));
        source.expect(&["db 10.1.0.8"]).await;
        source.finish().await;
    });
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    run(async {
        // Far longer than any pause of the writer.
        let mut source = Fixture::start_with(Duration::from_secs(2), NEVER, web_file);
        let mut file = fs::File::create(source.path().join("web.yaml")).unwrap();
        for line in workload("web", "10.1.0.2").split_inclusive('\n') {
            // Let the source see every state of it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            file.write_all(line.as_bytes()).unwrap();
        }
        source.expect(&["web 10.1.0.2"]).await;
        source.finish().await;
    });
}

#[test]
fn the_source_ends_when_nobody_listens() {
    run(async {
        let source = Fixture::start(NEVER, web_file);
        drop(source.updates);
        fs::write(
            source.dir.path().join("config/web.yaml"),
            workload("web", "10.1.0.2"),
        )
        .unwrap();
        timeout(DEADLINE, source.task)
            .await
            .expect("it ends in time")
            .unwrap();
    });
}

#[test]
fn what_is_no_configuration_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    for name in [
        "a.yaml",
        "b.yml",
        "c.json",
        ".hidden.yaml",
        "d.yaml.bak",
        "e",
        "notes.txt",
    ] {
        let first = name.trim_start_matches('.').chars().next().unwrap();
        let address = format!("10.1.0.{}", u32::from(first) - 96);
        fs::write(path.join(name), workload(&format!("w-{first}"), &address)).unwrap();
    }
    fs::create_dir(path.join("sub.yaml")).unwrap();
    fs::write(path.join("sub.yaml/z.yaml"), workload("w-z", "10.1.0.99")).unwrap();
    let (_, update) = DirectorySource::open(path).unwrap();
    assert_eq!(
        update.changes.iter().map(short).collect::<Vec<_>>(),
        ["w-a 10.1.0.1", "w-b 10.1.0.2", "w-c 10.1.0.3"]
    );
    assert_eq!(update.rejections, []);
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    symlink("nowhere", path.join("dangling.yaml")).unwrap();
    nix::unistd::mkfifo(&path.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (_, update) = DirectorySource::open(path).unwrap();
    let remedy = "make it a UTF-8 text that the agent may read; its objects stay as they were";
    assert_eq!(
        update
            .rejections
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            format!("binary.yaml: cannot be read: stream did not contain valid UTF-8; {remedy}"),
            format!("dangling.yaml: cannot be read: No such file or directory (os error 2); {remedy}"),
            format!("pipe.yaml: cannot be read: it is not a regular file; {remedy}"),
        ]
    );
}

#[test]
fn a_directory_that_is_none_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(
        DirectorySource::open(&missing).unwrap_err().to_string(),
        format!(
            "configuration directory {} does not exist; create it, or name another with --config",
            missing.display()
        )
    );
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        DirectorySource::open(&file).unwrap_err().to_string(),
        format!(
            "{} is not a directory; name the directory that holds the YAML files with --config",
            file.display()
        )
    );
}

/// Looks at everything once.
async fn look(source: &mut DirectorySource) -> Option<Option<Update>> {
    look_at(source, Scope::Everything).await
}

async fn look_at(source: &mut DirectorySource, scope: Scope) -> Option<Option<Update>> {
    let reading = source.read(scope).await?;
    source.refresh(reading).await
}

#[test]
fn only_what_has_a_name_elsewhere_is_looked_at_unasked() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::create_dir(&path).unwrap();
        let (linked, second) = (dir.path().join("linked"), dir.path().join("second"));
        fs::write(&linked, workload("linked", "10.1.0.1")).unwrap();
        fs::write(&second, workload("second", "10.1.0.2")).unwrap();
        symlink(&linked, path.join("linked.yaml")).unwrap();
        fs::hard_link(&second, path.join("second.yaml")).unwrap();
        fs::write(path.join("own.yaml"), workload("own", "10.1.0.3")).unwrap();
        let (mut source, _) = DirectorySource::open(&path).unwrap();
        let names = |scope: Scope| match scope {
            Scope::Files(names) => names.into_keys().collect::<Vec<_>>(),
            Scope::Everything => panic!("of everything"),
        };
        assert_eq!(
            names(source.seen.linked()),
            [Path::new("linked.yaml"), Path::new("second.yaml")]
        );

        fs::write(&linked, workload("linked", "10.1.0.11")).unwrap();
        fs::write(&second, workload("second", "10.1.0.12")).unwrap();
        fs::write(path.join("own.yaml"), workload("own", "10.1.0.13")).unwrap();
        let scope = source.seen.linked();
        let update = look_at(&mut source, scope).await.unwrap().unwrap();
        assert_eq!(
            update.changes.iter().map(short).collect::<Vec<_>>(),
            ["linked 10.1.0.11", "second 10.1.0.12"]
        );

        // A file in the place of the link, and one that lost its other name.
        fs::remove_file(path.join("linked.yaml")).unwrap();
        fs::write(path.join("linked.yaml"), workload("linked", "10.1.0.21")).unwrap();
        fs::remove_file(&second).unwrap();
        look(&mut source).await.unwrap().unwrap();
        assert_eq!(names(source.seen.linked()), Vec::<PathBuf>::new());
    });
}

#[test]
fn an_event_is_believed_more_than_a_stamp() {
    let scope = |name: &str, trust| Scope::Files([(PathBuf::from(name), trust)].into());
    for (a, b) in [(Trust::Stamps, Trust::Nothing), (Trust::Nothing, Trust::Stamps)] {
        assert_eq!(scope("a", a).and(scope("a", b)), scope("a", Trust::Nothing));
    }
    assert_eq!(
        scope("a", Trust::Stamps).and(Scope::Everything),
        Scope::Everything
    );
}

#[test]
fn a_reading_that_says_nothing_new_is_no_update() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        web_file(dir.path());
        let (mut source, _) = DirectorySource::open(dir.path()).unwrap();
        assert_eq!(look(&mut source).await.unwrap(), None);
        let text = format!("# a comment\n{}", workload("web", "10.1.0.1"));
        fs::write(dir.path().join("web.yaml"), text).unwrap();
        assert_eq!(look(&mut source).await.unwrap(), None, "the object is the same");
        fs::remove_file(dir.path().join("web.yaml")).unwrap();
        let update = look(&mut source).await.unwrap().unwrap();
        assert_eq!(
            update.changes,
            [Change::RemoveWorkload(ObjectKey::new("shop", "web"))]
        );
    });
}
