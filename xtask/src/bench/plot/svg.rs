//! The few shapes that plots are made of, as SVG.

use std::fmt::Write as _;

/// A document under construction.
pub(super) struct Svg(String);

/// Which end of a text is at its place.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

type Point = (f64, f64);

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" fill=\"#222222\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"#ffffff\"/>\n"
        ))
    }

    pub(super) fn bar(&mut self, (x, y): Point, (width, height): Point, colour: &str, strength: f64) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\" \
             fill-opacity=\"{strength}\"/>"
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): Point, (x2, y2): Point, colour: &str, width: f64) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        ));
    }

    /// The head of an arrow that points up.
    pub(super) fn arrow(&mut self, (x, y): Point, size: f64, colour: &str) {
        let (left, right, base) = (x - size, x + size, y + 1.5 * size);
        self.add(format_args!(
            "<path d=\"M{left:.1} {base:.1} L{x:.1} {y:.1} L{right:.1} {base:.1} Z\" fill=\"{colour}\"/>"
        ));
    }

    pub(super) fn text(&mut self, (x, y): Point, size: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    pub(super) fn finish(mut self) -> String {
        self.0 += "</svg>\n";
        self.0
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
