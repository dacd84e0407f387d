//! The ledger file: JSON lines, appended and synced before anything is answered, read again at start.

use crate::book::{Book, Record};
use anyhow::Context;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};
use tokio::sync::{mpsc, oneshot};

/// Appends records. Whoever waits together is written and synced together.
#[derive(Debug, Clone)]
pub struct Ledger {
    lines: mpsc::Sender<Line>,
}

/// A record's bytes, and whom to tell once they are on disk.
type Line = (Vec<u8>, oneshot::Sender<()>);

/// A record on its way to the disk.
pub type Pending = oneshot::Receiver<()>;

/// Reads the ledger in this folder and opens it for appending. A last line without an end was never answered, so it is cut off.
pub async fn open(folder: &Path) -> anyhow::Result<(Book, Ledger)> {
    let folder = folder.to_owned();
    let (book, file) = tokio::task::spawn_blocking(move || read(&folder)).await??;
    let (lines, queue) = mpsc::channel(4096);
    std::thread::Builder::new().name("ledger".to_owned()).spawn(move || write(file, queue))?;
    Ok((book, Ledger { lines }))
}

fn read(folder: &Path) -> anyhow::Result<(Book, File)> {
    std::fs::create_dir_all(folder)?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(folder.join("ledger.jsonl"))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    let mut book = Book::default();
    for (number, line) in text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let record: Record = serde_json::from_slice(line).with_context(|| format!("line {}", number + 1))?;
        book.replay(record);
    }
    // The folder's entry of a new file must survive as well.
    File::open(folder)?.sync_all()?;
    Ok((book, file))
}

impl Ledger {
    /// Takes a place in the queue before anything is decided, so that every decision can be written. `None` when the writer is gone
    /// or hopelessly behind; then nothing may be decided or answered.
    pub fn slot(&self) -> Option<Slot> {
        self.lines.clone().try_reserve_owned().ok().map(Slot)
    }
}

/// A place in the ledger's queue.
#[derive(Debug)]
pub struct Slot(mpsc::OwnedPermit<Line>);

impl Slot {
    /// Queues a record; the order of calls is the order in the file. `None` queues nothing but still waits for all before it.
    pub fn append(self, record: Option<&Record>) -> Pending {
        let line = record.map_or_else(Vec::new, |record| {
            let mut line = serde_json::to_vec(record).expect("a record has only text and number keys");
            line.push(b'\n');
            line
        });
        let (done, pending) = oneshot::channel();
        self.0.send((line, done));
        pending
    }
}

/// Runs on its own thread. A disk error ends the process: memory and file would differ from then on.
fn write(mut file: File, mut queue: mpsc::Receiver<Line>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, 512) > 0 {
        let bytes: Vec<u8> = batch.iter().flat_map(|(line, _)| line.iter().copied()).collect();
        if !bytes.is_empty()
            && let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data())
        {
            tracing::error!(%error, "the ledger cannot be written");
            std::process::abort();
        }
        for (_, done) in batch.drain(..) {
            // A caller that hung up does not mind.
            let _ = done.send(());
        }
    }
}
