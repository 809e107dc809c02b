//! `treehaul status --watch`: a display of the fleet on the whole terminal.
//!
//! Invariant: however it ends - a key, a signal, an error, a panic - the terminal is as it was. Nothing is drawn that
//! was not escaped.

mod picture;
mod render;

use self::picture::{Looks, Picture};
use crate::broker::amqp::{AmqpConfig, AmqpError, Office};
use crate::exit_code::ExitCode;
use crate::model::JobId;
use crate::node::Look;
use crate::node::NodeError;
use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
/// A worker that does not answer must not hold the display up for longer.
const LONGEST_PATIENCE: Duration = Duration::from_secs(2);
/// How often keys and signals are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// What the one who looks is told.
enum Wish {
    /// Nobody takes a task of the job, or everybody does again.
    Pause(JobId, bool),
}

/// What the one who looks tells.
type Seen = Result<Look, String>;

/// Shows the fleet until a key or a signal ends it.
///
/// # Errors
/// No terminal, or no broker.
pub fn run(config: &AmqpConfig, nodes: &[String], patience: Duration) -> anyhow::Result<ExitCode> {
    let there = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    anyhow::ensure!(
        there,
        "--watch needs a terminal on stdin and stdout: use `treehaul status`, with --format json for programs"
    );
    // Said before the terminal changes.
    let office = Office::connect(config).map_err(NodeError::Broker)?;
    let signalled = listen().context("cannot listen for signals")?;
    let (tell, seen) = channel();
    let (wish, wishes) = channel();
    let looker = Looker { config: config.clone(), nodes: nodes.to_vec(), patience: patience.min(LONGEST_PATIENCE) };
    std::thread::Builder::new().name("look".into()).spawn(move || looker.run(Some(office), &tell, &wishes))?;
    let mut terminal = Screen::open().context("cannot use the terminal")?;
    show(&mut terminal.0, &config.to_string(), &seen, &wish, &signalled)
}

/// The terminal, until it is dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> std::io::Result<Self> {
        ratatui::try_init().map(Screen).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The number of the first signal that would end the process, or 0.
fn listen() -> std::io::Result<Arc<AtomicI32>> {
    let number = Arc::new(AtomicI32::new(0));
    let seen = Arc::clone(&number);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    let wait = async move {
        tokio::select! {
            _ = int.recv() => libc::SIGINT,
            _ = term.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        }
    };
    let listen = move || seen.store(runtime.block_on(wait), Ordering::Relaxed);
    std::thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(number)
}

/// Draws what comes, and follows keys.
fn show(
    terminal: &mut DefaultTerminal,
    broker: &str,
    seen: &Receiver<Seen>,
    wish: &Sender<Wish>,
    signalled: &AtomicI32,
) -> anyhow::Result<ExitCode> {
    let mut looks = Looks::default();
    let mut picture = Picture::new(broker, &looks, 0);
    let mut changed = true;
    loop {
        if let Ok(look) = seen.try_recv() {
            looks.add(look);
            changed = true;
        }
        // Only what is new is sent: the line may be slow.
        if std::mem::take(&mut changed) {
            picture = Picture::new(broker, &looks, picture.selected);
            terminal.draw(|frame| render::render(frame, &picture))?;
        }
        match signalled.load(Ordering::Relaxed) {
            0 => {}
            libc::SIGTERM => return Ok(ExitCode::Terminated),
            _ => return Ok(ExitCode::Interrupted),
        }
        if !event::poll(KEYS_EVERY)? {
            continue;
        }
        changed = true;
        let Event::Key(key) = event::read()? else { continue };
        match action(key) {
            Action::Quit(code) => return Ok(code),
            Action::Move(by) => picture.selected = picture.selected.saturating_add_signed(by),
            Action::Pause => {
                if let Some((job, paused)) = picture.selected_job() {
                    let _ = wish.send(Wish::Pause(job, !paused)); // whoever looks may have gone
                }
            }
            Action::Nothing => {}
        }
    }
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Quit(ExitCode),
    Move(isize),
    Pause,
    Nothing,
}

fn action(key: KeyEvent) -> Action {
    if key.kind != KeyEventKind::Press {
        return Action::Nothing;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Action::Quit(ExitCode::Interrupted),
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit(ExitCode::Complete),
        KeyCode::Char('p') => Action::Pause,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        _ => Action::Nothing,
    }
}

/// Looks at the fleet, on a thread of its own since that may take a while.
struct Looker {
    config: AmqpConfig,
    nodes: Vec<String>,
    patience: Duration,
}

impl Looker {
    fn run(&self, mut office: Option<Office>, tell: &Sender<Seen>, wishes: &Receiver<Wish>) {
        let mut wish = None;
        loop {
            let looked = self.look(&mut office, wish.take());
            if looked.is_err() {
                office = None;
            }
            if tell.send(looked.map_err(|e| e.to_string())).is_err() {
                return;
            }
            wish = match wishes.recv_timeout(LOOK_EVERY) {
                Ok(wish) => Some(wish),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    }

    fn look(&self, office: &mut Option<Office>, wish: Option<Wish>) -> Result<Look, AmqpError> {
        let office = match office {
            Some(office) => office,
            None => office.insert(Office::connect(&self.config)?),
        };
        match wish {
            Some(Wish::Pause(job, true)) => office.pause_job(job)?,
            Some(Wish::Pause(job, false)) => office.resume_job(job)?,
            None => {}
        }
        Look::take(office, &self.nodes, self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let key = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('q')), Action::Quit(ExitCode::Complete));
        assert_eq!((key(KeyCode::Up), key(KeyCode::Down)), (Action::Move(-1), Action::Move(1)));
        assert_eq!((key(KeyCode::Char('p')), key(KeyCode::Char('x'))), (Action::Pause, Action::Nothing));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(interrupt), Action::Quit(ExitCode::Interrupted));
    }
}
