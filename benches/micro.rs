//! `cargo bench`: what one call costs, in nanoseconds; the median of several rounds.

use std::hint::black_box;
use std::time::Instant;
use treehaul::broker::codec;
use treehaul::fs::{self, Options, Side};
use treehaul::model::task::{Entries, Entry};
use treehaul::model::{JobId, Kind, RelPath, Task, TaskId, escaped};
use treehaul::telemetry;

const ROUNDS: usize = 9;

/// Runs `call` often enough to be seen, several times over.
fn measure(what: &str, per_call: u32, mut call: impl FnMut()) {
    const CALLS: u32 = 200;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed().as_nanos() as f64 / f64::from(CALLS) / f64::from(per_call)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what:40} {:8.1} ns", rounds[ROUNDS / 2]);
}

fn batch() -> Task {
    let mut entries = Entries::default();
    for i in 0..1000 {
        let name = format!("file-{i:08}.dat");
        entries.push(&Entry { name: name.as_bytes(), kind: Some(Kind::File), metadata: None }).expect("a name");
    }
    Task::Batch { dir: RelPath::parse(b"some/where/deep".to_vec()).expect("a path"), entries, tag: 1 }
}

fn main() {
    let task = batch();
    let mut bytes = Vec::new();
    codec::encode_into(&task, &mut bytes).expect("it encodes");
    measure("encode, per entry", 1000, || {
        let mut out = Vec::with_capacity(32 << 10);
        codec::encode_into(black_box(&task), &mut out).expect("it encodes");
        black_box(out);
    });
    measure("decode, per entry", 1000, || {
        drop(black_box(codec::decode::<Task>(black_box(&bytes)).expect("it decodes")))
    });
    let name = b"an ordinary name, with \x1b one \xff surprise".as_slice();
    measure("escape a name", 1, || drop(black_box(escaped(black_box(name)))));
    let job = JobId::random();
    measure("name the task at work, per task", 1000, || {
        for number in 0..1000 {
            drop(black_box(telemetry::begin(black_box(job), TaskId { message: Some((7, number)), number })));
        }
    });
    let options = Options::new(job);
    let synth = fs::open(b"synth://?entries=1000&files=1000", Side::Source, &options).expect("it opens");
    let root = synth.open_dir(&RelPath::root()).expect("a root");
    measure("synth: list, per entry", 1000, || {
        root.list(&mut |e| assert!(!black_box(e.name).is_empty())).expect("it lists")
    });
}
