//! `mercato events`: the log of events in backups. See docs/operations.md.

use anyhow::{Context, bail};
use clap::Subcommand;
use mercato_chassis::boot;
use mercato_chassis::role::Platform;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Disagreements that are told one by one.
const SHOWN: usize = 20;

#[derive(Subcommand)]
pub enum Events {
    /// Writes down how far the slowest consumers are. To be asked before the databases are copied.
    Place {
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Copies the log to a file. To be done after the databases were copied.
    Save {
        /// The file; made anew, readable by its owner alone.
        #[arg(long)]
        out: PathBuf,
        /// From there on: what `place` wrote. Together with the databases this is a backup.
        #[arg(long, required_unless_present = "all", conflicts_with = "all")]
        since: Option<PathBuf>,
        /// From the first event on, for consumers that are yet to come.
        #[arg(long)]
        all: bool,
    },
    /// Deletes topics and consumer groups and makes the topics anew, empty. No role may run.
    Empty,
    /// Says again what a copy holds and the restored databases know of, into empty topics. No role may run.
    Restore {
        /// The copy. One that is damaged or of another shop is refused before anything is said.
        #[arg(long)]
        from: PathBuf,
        /// Where those events are listed that the databases do not know: what was lost.
        #[arg(long)]
        lost: PathBuf,
    },
    /// After the broker has lost its data, the databases being whole: says again what consumers wait for, through the outboxes.
    Repeat,
    /// Compares what consumers have taken with what was said; exit code 1 when something was taken that nobody said.
    Check {
        /// Also fails when something was said and not taken, which is in order only while events are on their way.
        #[arg(long)]
        at_rest: bool,
    },
}

/// Runs one of them.
pub async fn run(platform: &Platform, command: Events) -> anyhow::Result<()> {
    match command {
        Events::Place { out } => {
            let place = tokio::task::block_in_place(|| boot::place_in_events(platform))?;
            let mut file = NewFile::create(&out)?;
            serde_json::to_writer(&mut file.writer, &place)?;
            file.keep()?;
        }
        Events::Save { out, since, all: _ } => {
            let place = since.map(|path| -> anyhow::Result<_> {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                serde_json::from_str(&text).with_context(|| format!("{} is no place in the log", path.display()))
            });
            let place = place.transpose()?;
            let mut file = NewFile::create(&out)?;
            let count = boot::save_events(platform, place.as_ref(), &mut file.writer).await?;
            file.keep()?;
            eprintln!("saved {count} events");
        }
        Events::Empty => {
            boot::empty_topics(platform).await?;
            eprintln!("the topics are empty");
        }
        Events::Restore { from, lost } => {
            let mut copy = BufReader::new(File::open(&from).with_context(|| from.display().to_string())?);
            let mut list = NewFile::create(&lost)?;
            let told = boot::restore_events(platform, &mut copy, &mut list.writer).await?;
            list.keep()?;
            for (topic, told) in told {
                eprintln!("{topic}: {} said again, {} lost", told.again, told.lost);
            }
        }
        Events::Repeat => {
            for (topic, count) in boot::repeat_events(platform).await? {
                eprintln!("{topic}: {count} said again");
            }
        }
        Events::Check { at_rest } => check(platform, at_rest).await?,
    }
    Ok(())
}

async fn check(platform: &Platform, at_rest: bool) -> anyhow::Result<()> {
    let (ahead, behind) = boot::compare_events(platform).await?;
    for (what, found) in [("taken and never said", &ahead), ("said and not taken", &behind)] {
        eprintln!("{what}: {}", found.len());
        for one in found.iter().take(SHOWN) {
            eprintln!("  {} of {} {}: taken {}, said {}", one.consumer, one.topic, one.aggregate, one.taken, one.said);
        }
    }
    if !ahead.is_empty() || (at_rest && !behind.is_empty()) {
        bail!("consumers and what was said disagree");
    }
    Ok(())
}

/// A file that is there under its name when it is whole, readable by its owner alone.
struct NewFile {
    path: PathBuf,
    unfinished: PathBuf,
    writer: BufWriter<File>,
}

impl NewFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let writer = BufWriter::new(file.with_context(|| unfinished.display().to_string())?);
        Ok(Self { path: path.to_owned(), unfinished, writer })
    }

    /// A copy that is not on the disk is none.
    fn keep(mut self) -> anyhow::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        std::fs::rename(&self.unfinished, &self.path).with_context(|| self.path.display().to_string())
    }
}

impl Drop for NewFile {
    /// Removes what was not finished; after [`NewFile::keep`] there is nothing.
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.unfinished)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("{} is left: {error}", self.unfinished.display());
        }
    }
}
