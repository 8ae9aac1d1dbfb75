//! Terminal sessions as text: a command on a line that begins with `$ `, below it what it prints, and `? CODE` where its
//! exit code is not 0.

use std::env;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::PILLION;

/// A terminal in an empty folder, in which `examples` and `cases` (those of `mesh/tests/analyze`) lead to the repository.
pub(crate) struct Console(TempDir);

impl Console {
    pub(crate) fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, target) in [("examples", "examples"), ("cases", "mesh/tests/analyze")] {
            symlink(root.join(target), folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    /// Types the commands of a session; the session as it is now.
    pub(crate) fn replay(&self, session: &str) -> String {
        let commands = session.lines().filter_map(|line| line.strip_prefix("$ "));
        let told = commands.map(|command| {
            let (printed, code) = self.run(command);
            let code = if code == 0 { String::new() } else { format!("? {code}\n") };
            format!("$ {command}\n{printed}{code}")
        });
        told.collect::<Vec<_>>().join("\n")
    }

    /// What a command prints, and its exit code.
    fn run(&self, command: &str) -> (String, i32) {
        let path =
            format!("{}:{}", Path::new(PILLION).parent().unwrap().display(), env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .current_dir(self.0.path())
            .env("PATH", path)
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    }
}
