//! Draws a picture; a pure function of it and of the size of the terminal.

use super::picture::{JobRow, NodeRow, Picture};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Paragraph};

/// Lines of one job: title, bar, counts, queues.
const JOB_LINES: u16 = 4;
/// Lines that what went wrong may take.
const SAID_LINES: u16 = 4;
/// Columns of a worker's name.
const NAME_COLUMNS: usize = 18;
/// Columns of a bar of actors.
const BAR_COLUMNS: usize = 6;

/// Draws everything.
pub fn render(frame: &mut Frame<'_>, picture: &Picture) {
    let said = u16::try_from(picture.said.len()).unwrap_or(SAID_LINES).min(SAID_LINES);
    let nodes = u16::try_from(picture.nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let room = frame.area().height.saturating_sub(said + 2);
    let wanted = u16::try_from(picture.jobs.len()).unwrap_or(u16::MAX).saturating_mul(JOB_LINES).max(1);
    // Jobs first, but workers keep a third of the room.
    let jobs = wanted.min(room.saturating_sub(nodes.min(room / 3)));
    let [head, jobs, nodes, said, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(jobs),
        Constraint::Min(0),
        Constraint::Length(said),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(picture.head.as_str()).reversed(), head);
    render_jobs(frame, picture, jobs);
    render_nodes(frame, &picture.nodes, nodes);
    let lines: Vec<Line<'_>> = picture.said.iter().map(|text| Line::from(text.as_str()).yellow()).collect();
    frame.render_widget(Paragraph::new(lines), said);
    frame.render_widget(Line::from("q quit   up/down select a job   p pause or resume it").dim(), keys);
}

fn render_jobs(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    if picture.jobs.is_empty() {
        frame.render_widget(Line::from("no job is under way").dim(), area);
        return;
    }
    let fit = usize::from(area.height / JOB_LINES).max(1);
    let first = (picture.selected + 1).saturating_sub(fit);
    for (place, (at, job)) in picture.jobs.iter().enumerate().skip(first).take(fit).enumerate() {
        let y = u16::try_from(place).unwrap_or(u16::MAX).saturating_mul(JOB_LINES);
        let below = Rect { y: area.y + y, height: JOB_LINES.min(area.height.saturating_sub(y)), ..area };
        render_job(frame, job, at == picture.selected, below);
    }
}

fn render_job(frame: &mut Frame<'_>, job: &JobRow, selected: bool, area: Rect) {
    let [title, bar, counts, queues] = Layout::vertical([Constraint::Max(1); 4]).areas(area);
    let marker = if selected { "> " } else { "  " };
    let style = if selected { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    frame.render_widget(Line::from(format!("{marker}{}", job.title)).style(style), title);
    let bar = Rect { x: bar.x + 2.min(bar.width), width: bar.width.saturating_sub(2), ..bar };
    let colour = if job.paused { Color::Yellow } else { Color::Green };
    match job.fraction {
        Some(fraction) => frame.render_widget(Gauge::default().gauge_style(colour).ratio(fraction), bar),
        None => frame.render_widget(Line::from("...").dim(), bar),
    }
    frame.render_widget(Line::from(format!("  {}", job.counts)), counts);
    frame.render_widget(Line::from(format!("  waiting: {}", job.queues)).dim(), queues);
}

fn render_nodes(frame: &mut Frame<'_>, nodes: &[NodeRow], area: Rect) {
    let head = format!("{:NAME_COLUMNS$} {:8} {:16} {:16} LOAD MEMORY", "WORKER", "STATE", "DIRS", "FILES");
    let mut lines = vec![Line::from(head).dim()];
    let room = usize::from(area.height).saturating_sub(1);
    let shown = if nodes.len() > room { room.saturating_sub(1) } else { nodes.len() };
    lines.extend(nodes.iter().take(shown).map(node_line));
    if shown < nodes.len() {
        lines.push(Line::from(format!("... and {} more", nodes.len() - shown)).dim());
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn node_line(node: &NodeRow) -> Line<'_> {
    let mut name: String = node.name.chars().take(NAME_COLUMNS).collect();
    if node.name.chars().nth(NAME_COLUMNS).is_some() {
        name.pop();
        name.push('~');
    }
    let mut spans = vec![Span::from(format!("{name:NAME_COLUMNS$} {:8} ", node.state))];
    for (busy, all) in node.actors {
        spans.push(Span::from(bar(busy, all)).green());
        spans.push(Span::from(format!(" {:<9} ", format!("{busy}/{all}"))));
    }
    spans.push(Span::from(node.load.as_str()));
    Line::from(spans)
}

/// Busy actors of all, as a bar; one busy actor is seen in any case.
fn bar(busy: u32, all: u32) -> String {
    let filled = (busy as usize * BAR_COLUMNS).div_ceil((all as usize).max(1)).min(BAR_COLUMNS);
    format!("{}{}", "#".repeat(filled), ".".repeat(BAR_COLUMNS - filled))
}

#[cfg(test)]
mod tests {
    use super::super::picture::Looks;
    use super::super::picture::tests::{EVIL, hostile};
    use super::*;
    use crate::broker::amqp::Stranger;
    use crate::cli::reach::stranger_text;
    use crate::model::{JobId, escaped};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(picture: &Picture, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| render(frame, picture)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    fn job(n: usize, paused: bool) -> JobRow {
        let standing = if paused { "paused" } else { "walking" };
        JobRow {
            id: JobId::random(),
            paused,
            title: format!("job{n} {standing}: copy /{} -> /t", escaped(EVIL.as_bytes())),
            fraction: Some(0.5),
            counts: "5 of 10 entries".into(),
            queues: "1 dirs, 2 files, 3 unacknowledged".into(),
        }
    }

    fn node(name: &str) -> NodeRow {
        let name = escaped(name.as_bytes());
        NodeRow { name, state: "works", actors: [(1, 16), (16, 16)], load: "1.25 30.00 MiB".into() }
    }

    fn picture(jobs: usize, nodes: usize) -> Picture {
        let stranger = Stranger { name: EVIL.into(), version: "9".into(), wire: 9, key: true, clock: true };
        Picture {
            head: "treehaul  amqp://joe:***@b:5672/f  12:00:00  1 jobs".into(),
            jobs: (0..jobs).map(|n| job(n, n == 1)).collect(),
            selected: 0,
            nodes: (0..nodes).map(|n| node(&if n == 0 { EVIL.to_owned() } else { format!("n{n}") })).collect(),
            said: vec![stranger_text(&stranger)],
        }
    }

    #[test]
    fn everything_is_seen_on_a_small_terminal() {
        let lines = drawn(&picture(2, 3), 80, 24);
        assert_eq!(lines[0], "treehaul  amqp://joe:***@b:5672/f  12:00:00  1 jobs");
        assert_eq!(lines[1], r"> job0 walking: copy /no\x1b[2J\u{202e}de -> /t");
        assert!(lines[2].starts_with("  ███") && lines[2].contains("50%"), "{}", lines[2]);
        assert_eq!(lines[3], "  5 of 10 entries");
        assert_eq!(lines[4], "  waiting: 1 dirs, 2 files, 3 unacknowledged");
        assert!(lines[5].starts_with("  job1 paused: copy"), "{}", lines[5]);
        assert!(lines[9].starts_with("WORKER") && lines[9].ends_with("LOAD MEMORY"), "{}", lines[9]);
        let first = r"no\x1b[2J\u{202e}~ works    #..... 1/16      ###### 16/16     1.25 30.00 MiB";
        assert_eq!(lines[10], first);
        assert!(lines[12].starts_with("n2 "), "{}", lines[12]);
        assert!(lines[22].starts_with(r"no\x1b[2J\u{202e}de (treehaul 9) speaks wire version 9, this is "));
        assert_eq!(lines[23], "q quit   up/down select a job   p pause or resume it");
        assert!(lines.iter().all(|line| !line.contains(['\x1b', '\u{202e}'])));
    }

    #[test]
    fn a_hostile_fleet_is_drawn_harmlessly() {
        let mut looks = Looks::default();
        looks.add(Ok(hostile()));
        let lines = drawn(&Picture::new("amqp://b", &looks, 0), 80, 24);
        assert!(lines[1].contains(r" walking: no\x1b[2J\u{202e}de no\x1b[2J\u{202e}de -> no\x1b"), "{}", lines[1]);
        assert_eq!(lines[4], "  waiting: 3 dirs, 2 unacknowledged");
        assert!(lines[6].starts_with(r"no\x1b[2J\u{202e}~ idle "), "{}", lines[6]);
        assert!(lines.iter().all(|line| !line.contains(['\x1b', '\u{202e}'])), "{lines:#?}");
    }

    #[test]
    fn the_selected_job_is_seen_and_workers_keep_room() {
        let mut many = picture(20, 40);
        many.selected = 19;
        let lines = drawn(&many, 80, 24);
        assert!(lines.iter().any(|line| line.starts_with("> job19 ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("... and ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("n1 ")), "{lines:#?}");
    }

    #[test]
    fn any_size_is_drawn() {
        for (width, height) in [(1, 1), (2, 3), (10, 5), (80, 10), (200, 60)] {
            drawn(&picture(3, 3), width, height);
            drawn(&Picture::default(), width, height);
        }
        assert_eq!(drawn(&Picture::default(), 80, 24)[1], "no job is under way");
    }

    #[test]
    fn bars_show_every_busy_actor() {
        assert_eq!((bar(0, 16).as_str(), bar(1, 4096).as_str()), ("......", "#....."));
        assert_eq!((bar(16, 16).as_str(), bar(0, 0).as_str(), bar(9, 3).as_str()), ("######", "......", "######"));
    }
}
