//! Draws what a scenario gave: a panel for each figure, a bar for each setup, its range as a line through the top.
//!
//! A figure that was measured at several steps has a group of bars for each. Every axis begins at 0. A line that ends in an
//! arrow goes on beyond the panel; a pale bar varies too much to be compared.

mod svg;

use self::svg::{Anchor, Svg};
use super::report::Results;
use super::sample::{Figure, Step, Summary, short};
use super::stage::Setup;

/// One figure, with all its steps.
struct Panel {
    title: String,
    groups: Vec<Group>,
}

/// Bars side by side.
struct Group {
    step: Option<Step>,
    /// Each with the number of its setup.
    bars: Vec<(usize, Summary)>,
}

/// The axis of a panel: from 0 to `top`.
struct Scale {
    top: f64,
    /// Where 0 is drawn, and how far above it the top is.
    zero: f64,
    height: f64,
}

const COLUMNS: usize = 2;
const PANEL: (f64, f64) = (560.0, 250.0);
const MARGIN: f64 = 20.0;
const HEAD: f64 = 86.0;
/// Around the bars of a panel: left, top, right, bottom.
const INSET: (f64, f64, f64, f64) = (58.0, 34.0, 10.0, 28.0);
const LINES: u32 = 4;
/// Told apart by those who see few colours too (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#999999", "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#000000",
];

/// An SVG document of one scenario. `machine` says where it was measured.
pub(super) fn draw(results: &Results, machine: &str) -> String {
    let setups: Vec<Setup> = results.series.keys().copied().collect();
    let panels = panels(results, &setups);
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (
        2.0 * MARGIN + COLUMNS as f64 * PANEL.0,
        HEAD + rows as f64 * PANEL.1 + MARGIN,
    );
    let mut svg = Svg::new(size.0, size.1);
    svg.text(
        (MARGIN, 28.0),
        16.0,
        Anchor::Start,
        &format!("{}: {}", results.scenario.name, results.scenario.about),
    );
    svg.text((MARGIN, 46.0), 10.0, Anchor::Start, machine);
    let mut x = MARGIN;
    for (number, setup) in setups.iter().enumerate() {
        svg.bar((x, 58.0), (12.0, 12.0), colour(number), 1.0);
        svg.text((x + 17.0, 68.0), 12.0, Anchor::Start, setup.name());
        x += 40.0 + 7.5 * setup.name().len() as f64;
    }
    for (number, panel) in panels.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        let corner = (MARGIN + column as f64 * PANEL.0, HEAD + row as f64 * PANEL.1);
        panel.draw(&mut svg, corner);
    }
    svg.finish()
}

/// Figures of one name and unit share a panel.
fn panels(results: &Results, setups: &[Setup]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for figure in results.figures() {
        let bars: Vec<(usize, Summary)> = setups
            .iter()
            .enumerate()
            .filter_map(|(number, setup)| Some((number, results.series.get(setup)?.summary(figure)?)))
            .collect();
        let group = Group {
            step: figure.at,
            bars,
        };
        let title = title(figure);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.groups.push(group),
            None => panels.push(Panel {
                title,
                groups: vec![group],
            }),
        }
    }
    panels
}

fn title(figure: Figure) -> String {
    format!("{}, {}", figure.name, figure.unit)
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

impl Panel {
    fn draw(&self, svg: &mut Svg, (left, top): (f64, f64)) {
        let (from_left, from_top, from_right, from_bottom) = INSET;
        let width = PANEL.0 - from_left - from_right;
        let height = PANEL.1 - from_top - from_bottom;
        let (left, top) = (left + from_left, top + from_top);
        let summaries = || {
            self.groups
                .iter()
                .flat_map(|group| &group.bars)
                .map(|(_, bar)| bar)
        };
        let scale = Scale::of(summaries(), (top, height));
        svg.text((left - 50.0, top - 18.0), 12.0, Anchor::Start, &self.title);
        for line in 0..=LINES {
            let value = scale.top * f64::from(line) / f64::from(LINES);
            let y = scale.at(value);
            svg.line((left, y), (left + width, y), "#dddddd", 1.0);
            svg.text((left - 6.0, y + 3.5), 10.0, Anchor::End, &short(value));
        }
        let group_width = width / self.groups.len().max(1) as f64;
        for (number, group) in self.groups.iter().enumerate() {
            let from = left + number as f64 * group_width;
            group.draw(svg, (from, group_width), &scale);
            if let Some(step) = group.step {
                let middle = (from + group_width / 2.0, top + height + 16.0);
                svg.text(middle, 11.0, Anchor::Middle, &step.to_string());
            }
        }
    }
}

impl Group {
    fn draw(&self, svg: &mut Svg, (from, room): (f64, f64), scale: &Scale) {
        // The room of one more bar separates groups.
        let width = (room / (self.bars.len() + 1) as f64).min(70.0);
        let begin = from + (room - width * self.bars.len() as f64) / 2.0;
        for (place, (setup, bar)) in self.bars.iter().enumerate() {
            let (x, y) = (begin + place as f64 * width, scale.at(bar.median));
            let strength = if bar.is_noisy() { 0.45 } else { 1.0 };
            svg.bar(
                (x + 1.0, y),
                (width - 2.0, scale.zero - y),
                colour(*setup),
                strength,
            );
            let middle = x + width / 2.0;
            let (low, high) = (scale.at(bar.least), scale.at(bar.most));
            svg.line((middle, low), (middle, high), "#333333", 1.2);
            if bar.most > scale.top {
                svg.arrow((middle, high), 4.0, "#333333");
            }
            svg.text((middle, high - 4.0), 9.0, Anchor::Middle, &short(bar.median));
        }
    }
}

impl Scale {
    /// Ends at a round number; a range far above all medians is cut off.
    fn of<'a>(bars: impl Iterator<Item = &'a Summary> + Clone, (top, height): (f64, f64)) -> Self {
        let highest = bars.clone().map(|bar| bar.median).fold(0.0, f64::max);
        let most = bars.map(|bar| bar.most.min(2.0 * highest)).fold(0.0, f64::max);
        Self {
            top: round_up(most),
            zero: top + height,
            height,
        }
    }

    /// Where a value is drawn; what is beyond the axis, at its end.
    fn at(&self, value: f64) -> f64 {
        self.zero - value.clamp(0.0, self.top) / self.top * self.height
    }
}

/// The next of 1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0];
    let fits = steps.into_iter().find(|step| step * power >= value);
    fits.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::sample::{Sample, Series};
    use crate::bench::scenarios::SCENARIOS;

    fn results(rounds: &[(Setup, &[f64])]) -> Results {
        let mut series: BTreeMap<Setup, Series> = BTreeMap::new();
        for (setup, values) in rounds {
            for value in *values {
                let sample = Sample::default()
                    .with("throughput", "MiB/s", *value)
                    .with_at(Step::Connections(1), "p50", "µs", *value)
                    .with_at(Step::Connections(64), "p50", "µs", *value * 2.0);
                series.entry(*setup).or_default().push(sample);
            }
        }
        Results {
            scenario: &SCENARIOS[0],
            series,
        }
    }

    #[test]
    fn figures_of_one_name_share_a_panel_with_a_group_for_each_step() {
        let results = results(&[(Setup::Direct, &[10.0, 11.0]), (Setup::Mtls, &[5.0])]);
        let panels = panels(&results, &[Setup::Direct, Setup::Mtls]);
        let shape: Vec<_> = panels
            .iter()
            .map(|panel| {
                (
                    panel.title.as_str(),
                    panel.groups.len(),
                    panel.groups[0].bars.len(),
                )
            })
            .collect();
        assert_eq!(shape, [("throughput, MiB/s", 1, 2), ("p50, µs", 2, 2)]);
    }

    #[test]
    fn a_drawing_names_what_it_shows_and_escapes_it() {
        let results = results(&[(Setup::Direct, &[10.0, 11.0]), (Setup::Mtls, &[5.0, 50.0])]);
        let drawn = draw(&results, "a <machine> & more");
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(drawn.contains("a &lt;machine&gt; &amp; more"));
        assert!(drawn.contains(">mtls<") && drawn.contains(">64 connections<"));
        // Bars and their signs in the head; nothing is drawn at no place.
        assert_eq!(drawn.matches("<rect ").count(), 1 + 2 + 6);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }

    #[test]
    fn a_range_far_above_all_medians_is_cut_off() {
        let summary = |median, most| Summary {
            median,
            least: 0.0,
            most,
        };
        let scale = Scale::of([summary(10.0, 3000.0), summary(8.0, 9.0)].iter(), (0.0, 100.0));
        assert_eq!(scale.top, 20.0);
        assert_eq!(
            (scale.at(0.0), scale.at(10.0), scale.at(3000.0)),
            (100.0, 50.0, 0.0)
        );
        assert_eq!(scale.at(-5.0), 100.0);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0.0, 0.013, 1.0, 9.1, 163.0, f64::NAN].map(round_up);
        assert_eq!(ends, [1.0, 0.016, 1.0, 10.0, 200.0, 1.0]);
    }
}
