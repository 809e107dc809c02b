//! Plots, as SVG within the page: shapes are classed, and the style sheet gives them their colours.

use super::text::{size, words};
use crate::telemetry::Sample;
use std::fmt::Write as _;
use std::time::Duration;

/// Steps of a plot over time: as many as can be told apart.
const STEPS: usize = 120;
/// Fewer in a short job: what actors do is told when a task is done, and a step is to be longer than most tasks.
const SHORT_STEPS: usize = 12;
const SHORT: Duration = Duration::from_millis(800);
/// The drawing, in units of its own; it is as wide as the page.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 150.0;
/// Room for what is written beside the axes.
const LEFT: f64 = 70.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 20.0;
/// Between two lines of a grid, at least.
const LINES: f64 = 4.0;

/// How values of an axis are written.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Entries a second.
    Entries,
    /// Bytes a second.
    Bytes,
}

/// What was done in each step of the time, a second.
pub fn rates(samples: &[Sample], value: fn(&Sample) -> u64) -> Vec<f64> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Vec::new() };
    let all = last.at.saturating_sub(first.at).as_secs_f64();
    let wanted = ((all / SHORT.as_secs_f64()) as usize).clamp(SHORT_STEPS, STEPS);
    let steps = (samples.len() - 1).min(wanted);
    let width = all / steps.max(1) as f64;
    let mut most = 0;
    // What failed and is tried again was done before.
    let points = samples.iter().map(|sample| {
        most = value(sample).max(most);
        (sample.at.as_secs_f64(), most as f64)
    });
    let points: Vec<(f64, f64)> = points.collect();
    let at = |step: usize| value_at(&points, first.at.as_secs_f64() + step as f64 * width);
    (0..steps).map(|step| (at(step + 1) - at(step)).max(0.0) / width.max(1e-9)).collect()
}

/// Between two samples as if nothing had changed.
fn value_at(points: &[(f64, f64)], time: f64) -> f64 {
    let after = points.partition_point(|(t, _)| *t < time);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some((t0, v0)), Some((t1, v1))) if t1 > t0 => v0 + (v1 - v0) * (time - t0) / (t1 - t0),
        (_, Some((_, v))) | (Some((_, v)), None) => *v,
        (None, None) => 0.0,
    }
}

/// A plot of what was done a second over the time of a job; `mark` is when everything had been found.
pub fn over_time(title: &str, rates: &[f64], unit: Unit, lasted: Duration, mark: Option<Duration>) -> String {
    let most = rates.iter().copied().fold(0.0, f64::max);
    let (step, top) = grid(most, unit);
    let (plot_width, plot_height) = (WIDTH - LEFT - 10.0, HEIGHT - TOP - BOTTOM);
    let x = |part: f64| LEFT + part.clamp(0.0, 1.0) * plot_width;
    let y = |value: f64| TOP + plot_height * (1.0 - value / top);
    let mut out =
        format!("<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", words(title));
    let mut line = 0.0;
    while line <= top * 1.001 {
        let at = y(line);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{LEFT:.1} {at:.1}H{:.1}\"/>", x(1.0));
        let label = value_words(line, unit);
        let _ = writeln!(out, "<text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>", LEFT - 6.0, at + 3.5);
        line += step;
    }
    out.push_str(&time_axis(lasted, x));
    let mut d = String::new();
    for (n, rate) in rates.iter().enumerate() {
        let (from, to) = (x(n as f64 / rates.len() as f64), x((n + 1) as f64 / rates.len() as f64));
        let start = if n == 0 { 'M' } else { 'L' };
        let _ = write!(d, "{start}{from:.1} {:.1}H{to:.1}", y(*rate));
    }
    let base = y(0.0);
    let _ = writeln!(out, "<path class=\"area\" d=\"{d}V{base:.1}H{LEFT:.1}Z\"/>\n<path class=\"line\" d=\"{d}\"/>");
    if let Some(mark) = mark {
        out.push_str(&walk_over(mark, lasted, x));
    }
    let _ = writeln!(out, "<text class=\"label\" x=\"{LEFT:.1}\" y=\"10\">{}</text>\n</svg>", words(title));
    out
}

fn walk_over(mark: Duration, lasted: Duration, x: impl Fn(f64) -> f64) -> String {
    let part = mark.as_secs_f64() / lasted.as_secs_f64().max(1e-9);
    let (at, class) = (x(part), if part > 0.5 { "tick end" } else { "tick" });
    let beside = if part > 0.5 { at - 4.0 } else { at + 4.0 };
    format!(
        "<path class=\"mark\" d=\"M{at:.1} {:.1}V{:.1}\"/>\n<text class=\"{class}\" x=\"{beside:.1}\" y=\"{:.1}\">all found</text>\n",
        TOP - 10.0,
        HEIGHT - BOTTOM,
        TOP - 5.0
    )
}

/// The distance of the lines of a grid, and its end.
fn grid(most: f64, unit: Unit) -> (f64, f64) {
    let least = (most / LINES).max(f64::MIN_POSITIVE);
    let step = match unit {
        Unit::Entries => {
            let power = 10f64.powf(least.log10().floor());
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= least).unwrap_or(least)
        }
        Unit::Bytes => 2f64.powf(least.log2().ceil()),
    };
    // Fractions of an entry or a byte are nothing to draw lines at.
    let step = step.max(1.0);
    (step, (most / step).ceil().max(1.0) * step)
}

fn value_words(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => size(value as u64),
        Unit::Entries if value >= 1e6 => format!("{} M", value / 1e6),
        Unit::Entries => super::text::count(value as u64),
    }
}

/// Seconds between two marks of a time axis.
const TIMES: [f64; 22] = [
    0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0,
    43_200.0, 86_400.0, 172_800.0, 604_800.0,
];

fn time_axis(lasted: Duration, x: impl Fn(f64) -> f64) -> String {
    let all = lasted.as_secs_f64().max(1e-9);
    let step = TIMES.into_iter().find(|step| all / step <= 8.0).unwrap_or(all / 8.0);
    let mut out = String::new();
    let mut n = 0.0;
    while n * step <= all {
        let at = x(n * step / all);
        let _ = writeln!(
            out,
            "<text class=\"tick middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            HEIGHT - 5.0,
            time_words(n * step, step)
        );
        n += 1.0;
    }
    out
}

fn time_words(seconds: f64, step: f64) -> String {
    let whole = seconds.round() as u64;
    match step {
        s if s < 1.0 => format!("{seconds:.digits$} s", digits = if s < 0.1 { 2 } else { 1 }),
        s if s < 60.0 && whole < 60 => format!("{whole} s"),
        s if s < 60.0 => format!("{}:{:02} min", whole / 60, whole % 60),
        s if s < 3600.0 && whole < 3600 => format!("{} min", whole / 60),
        s if s < 86_400.0 => format!("{}:{:02} h", whole / 3600, whole / 60 % 60),
        _ => format!("{} d", whole / 86_400),
    }
}

/// A bar of a part of something, for a cell of a table.
pub fn bar(part: u64, most: u64, class: &str) -> String {
    let width = part as f64 * 100.0 / most.max(1) as f64;
    // What there is must be seen.
    let width = if part > 0 { width.max(0.6) } else { 0.0 };
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"{class}\" width=\"{width:.2}\" height=\"10\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64, entries: u64) -> Sample {
        Sample { at: Duration::from_millis(ms), entries, bytes: 0 }
    }

    #[test]
    fn rates_are_what_was_done_in_each_step() {
        let samples = [sample(0, 0), sample(1000, 100), sample(2000, 100), sample(3000, 400), sample(4000, 400)];
        assert_eq!(rates(&samples, |s| s.entries), [100.0, 0.0, 300.0, 0.0]);
        assert!(rates(&samples[..1], |s| s.entries).is_empty());
        assert!(rates(&[], |s| s.entries).is_empty());
    }

    #[test]
    fn what_was_taken_back_is_not_done_again() {
        let samples = [sample(0, 0), sample(1000, 100), sample(2000, 40), sample(3000, 120)];
        assert_eq!(rates(&samples, |s| s.entries), [100.0, 0.0, 20.0]);
    }

    #[test]
    fn many_samples_become_few_steps_and_nothing_is_lost() {
        let samples: Vec<Sample> = (0..=500).map(|n| sample(n * 700, n * n)).collect();
        let steps = rates(&samples, |s| s.entries);
        let sum: f64 = steps.iter().map(|rate| rate * 350.0 / steps.len() as f64).sum();
        assert_eq!((steps.len(), sum.round() as u64), (STEPS, 250_000));
    }

    #[test]
    fn the_grid_holds_everything_with_few_lines() {
        for most in [0.0, 0.3, 1.0, 7.0, 999.0, 123_456.0, 9e12] {
            for unit in [Unit::Entries, Unit::Bytes] {
                let (step, top) = grid(most, unit);
                assert!(top >= most && step >= 1.0 && top / step <= 5.0, "{most}: {step} {top}");
            }
        }
    }
}
