//! `pillion lesson`: leads through the lessons of `examples/lessons`, which this binary holds.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::lab::{self, LabError};
use crate::output::Format;
use crate::playground;

/// Folder, its files by their paths in it and their text; what all lessons share stands last, under no folder.
type Table = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const LESSONS: Table = include!(concat!(env!("OUT_DIR"), "/lessons.rs"));

/// What a lesson's script is called.
const SCRIPT: &str = "run";

/// The variable by which a lesson knows that it shall wait for the learner.
const STEP: &str = "LESSON_STEP";

/// How long a lesson may take to take its mesh down after a signal.
const GRACE: Duration = Duration::from_secs(15);

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The lessons, and what each is about
    List(Format),
    /// Plays a lesson in a mesh of its own, and asserts what it claims
    ///
    /// Needs no Docker: network namespaces, as root or in a user namespace, with iproute2 and iptables. Some lessons use
    /// curl, openssl, jq or tshark as well and say so where one is missing.
    ///
    /// Exit codes: 0 all was as the lesson says, 1 something was not, 2 there is no such lesson, 125 no mesh can be built.
    Run {
        /// 1, 07, or the folder's name
        lesson: String,
        /// Wait for the Enter key before each step
        #[arg(long)]
        step: bool,
    },
    /// Prints what a lesson teaches: what to look at, the commands by hand, experiments, and where it is in the code
    Show {
        /// 1, 07, or the folder's name
        lesson: String,
    },
    /// Writes the files of a lesson, to read them, to change them and to play them by hand
    Copy {
        /// 1, 07, or the folder's name
        lesson: String,
        /// Where; made where it is missing
        folder: PathBuf,
    },
}

/// Exit codes: 0, 1 where something was not as the lesson says or could not be written, 2 for no such lesson.
pub(crate) fn run(options: &Options) -> ExitCode {
    let done = match &options.command {
        What::List(format) => {
            format.print(&Listed::all(), Listed::all());
            Ok(ExitCode::SUCCESS)
        }
        What::Show { lesson } => found(lesson).map(|lesson| {
            say(lesson.text("README.md").trim_end());
            ExitCode::SUCCESS
        }),
        What::Copy { lesson, folder } => found(lesson).and_then(|lesson| copy(&lesson, folder)),
        What::Run { lesson, step } => found(lesson).and_then(|lesson| play(&lesson, *step)),
    };
    done.unwrap_or_else(|(code, fault)| {
        eprintln!("pillion lesson: {fault}");
        ExitCode::from(code)
    })
}

type Fault = (u8, String);

/// A lesson of the table.
struct Lesson {
    folder: &'static str,
    files: &'static [(&'static str, &'static str)],
}

impl Lesson {
    fn all() -> impl Iterator<Item = Self> {
        LESSONS.iter().filter(|(folder, _)| !folder.is_empty()).map(|(folder, files)| Self { folder, files })
    }

    /// `07` of `07-interception`.
    fn number(&self) -> &'static str {
        self.folder.split('-').next().unwrap_or_default()
    }

    fn text(&self, name: &str) -> &'static str {
        self.files.iter().find(|(file, _)| *file == name).map_or("", |(_, text)| text)
    }

    /// The heading of its README, without what all have in front.
    fn title(&self) -> &'static str {
        let heading = self.text("README.md").lines().next().unwrap_or_default();
        heading.split_once(": ").map_or(heading, |(_, title)| title)
    }
}

/// By number, with or without a zero in front, or by name.
fn found(asked: &str) -> Result<Lesson, Fault> {
    let number = |text: &str| text.parse::<u32>().ok();
    let fits = |lesson: &Lesson| {
        lesson.folder == asked || number(asked).is_some_and(|asked| number(lesson.number()) == Some(asked))
    };
    Lesson::all().find(fits).ok_or_else(|| {
        let last = Lesson::all().map(|lesson| lesson.number()).last().unwrap_or_default();
        (2, format!("expected a lesson from 01 to {last}, got {asked}; `pillion lesson list` shows them"))
    })
}

/// All lessons, for a listing.
#[derive(Serialize)]
struct Listed {
    lessons: Vec<ListedLesson>,
}

#[derive(Serialize)]
struct ListedLesson {
    number: &'static str,
    folder: &'static str,
    title: &'static str,
}

impl Listed {
    fn all() -> Self {
        let listed = |lesson: Lesson| ListedLesson {
            number: lesson.number(),
            folder: lesson.folder,
            title: lesson.title(),
        };
        Self { lessons: Lesson::all().map(listed).collect() }
    }
}

impl Display for Listed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for ListedLesson { number, title, .. } in &self.lessons {
            writeln!(f, "{number}  {title}")?;
        }
        write!(f, "\nplay one: pillion lesson run 1; read it first: pillion lesson show 1")
    }
}

/// Prints for the person. Where nobody reads it any more, there is nobody to be told.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn copy(lesson: &Lesson, folder: &Path) -> Result<ExitCode, Fault> {
    write(lesson, folder).map_err(|error| (1, format!("{}: {error}", folder.display())))?;
    let place = folder.join(lesson.folder);
    say(&format!("{0} is there now; play it: {0}/{SCRIPT}", place.display()));
    Ok(ExitCode::SUCCESS)
}

/// The lesson's folder, and beside it what all lessons share.
fn write(lesson: &Lesson, folder: &Path) -> io::Result<()> {
    let shared = LESSONS.iter().filter(|(folder, _)| folder.is_empty());
    let own = [(lesson.folder, lesson.files)];
    for (name, files) in own.into_iter().chain(shared.map(|(folder, files)| (*folder, *files))) {
        for (file, text) in files {
            let path = folder.join(name).join(file);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(&path, text)?;
            if text.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
        }
    }
    Ok(())
}

/// In a folder that is removed afterwards.
fn play(lesson: &Lesson, step: bool) -> Result<ExitCode, Fault> {
    let failed = |error: io::Error| (125, format!("cannot play {}: {error}", lesson.folder));
    let folder = tempfile::Builder::new().prefix("pillion-lesson-").tempdir().map_err(failed)?;
    write(lesson, folder.path()).map_err(failed)?;
    let executable = lab::own_executable().map_err(|error| (125, error.to_string()))?;
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).and_then(|()| symlink(executable, programs.join("pillion"))).map_err(failed)?;
    lab::watch_signals().map_err(|error| (125, error.to_string()))?;
    let mut command = Command::new(folder.path().join(lesson.folder).join(SCRIPT));
    command.env("PATH", playground::with_path(&programs));
    if step {
        command.env(STEP, "1");
    }
    let child = command.spawn().map_err(failed)?;
    playground::wait_for(child, GRACE).or_else(|error| match error {
        LabError::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
        error => Err((125, error.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn lessons_are_numbered_from_one_without_a_gap() {
        for (n, lesson) in Lesson::all().enumerate() {
            assert_eq!(lesson.number(), format!("{:02}", n + 1));
            assert!(
                lesson.text("README.md").starts_with(&format!("# Lesson {}: ", n + 1)),
                "{}",
                lesson.folder
            );
            assert!(lesson.text(SCRIPT).starts_with("#!"), "{}", lesson.folder);
        }
    }

    #[rstest]
    #[case("1", Some("01-"))]
    #[case("01", Some("01-"))]
    #[case("0", None)]
    #[case("99", None)]
    #[case("plaintext", None)]
    fn a_lesson_is_found_by_its_number(#[case] asked: &str, #[case] expected: Option<&str>) {
        match (found(asked), expected) {
            (Ok(lesson), Some(beginning)) => assert!(lesson.folder.starts_with(beginning)),
            (Err((2, fault)), None) => {
                assert!(fault.contains(asked) && fault.contains("lesson list"), "{fault}");
            }
            (other, _) => panic!("{asked}: {:?}", other.map(|lesson| lesson.folder)),
        }
    }

    #[test]
    fn a_copied_lesson_can_be_executed_and_has_beside_it_what_it_shares() {
        let folder = tempfile::tempdir().unwrap();
        let lesson = found("1").unwrap();
        write(&lesson, folder.path()).unwrap();
        let script = folder.path().join(lesson.folder).join(SCRIPT);
        assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(folder.path().join("lesson.sh").exists());
    }
}
