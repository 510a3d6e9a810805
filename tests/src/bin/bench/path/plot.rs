//! Bars as SVG: a panel for each kind of traffic, each bar as long as what a piece costs is over what it costs without policy.

use std::fmt::Write as _;

use super::variant::Engine;
use crate::svg::{self, text};

pub(crate) struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub(crate) struct Bar {
    pub name: String,
    pub engine: Engine,
    pub times_nobody: f64,
    /// The figure itself.
    pub label: String,
}

const NAMES: f64 = 170.0;
const PANEL: f64 = 230.0;
/// How long a bar is that says: as without policy.
const FULL: f64 = 85.0;
/// Longer bars are cut, or one figure would make all others short.
const LONGEST: f64 = 2.0;
const TOP: f64 = 48.0;
const ROW: f64 = 22.0;
const THICK: f64 = 15.0;

pub(crate) fn draw(panels: &[Panel]) -> String {
    let rows = panels.first().map_or(0, |panel| panel.bars.len());
    let (width, height) = (NAMES + PANEL * panels.len() as f64, TOP + ROW * rows as f64 + 12.0);
    let mut svg = svg::begin(width, height, "Processor time between two pods, by who enforces policy");
    for (at, bar) in panels.first().iter().flat_map(|panel| panel.bars.iter()).enumerate() {
        text(&mut svg, NAMES - 8.0, baseline(at), "end", &bar.name);
    }
    for (number, panel) in panels.iter().enumerate() {
        let left = NAMES + PANEL * number as f64;
        text(&mut svg, left, TOP - 26.0, "start", &panel.title);
        let (full, bottom) = (left + FULL, TOP + ROW * rows as f64);
        svg::line(&mut svg, (full, TOP), (full, bottom), "#999999", Some("3 3"));
        text(&mut svg, full, TOP - 8.0, "middle", "no policy");
        for (at, bar) in panel.bars.iter().enumerate() {
            let (y, length) = (TOP + ROW * at as f64 + 3.0, FULL * bar.times_nobody.clamp(0.0, LONGEST));
            let color = color(bar.engine);
            let _ = writeln!(
                svg,
                r#"<rect x="{left:.1}" y="{y:.1}" width="{length:.1}" height="{THICK}" fill="{color}"/>"#
            );
            text(&mut svg, left + length + 5.0, baseline(at), "start", &bar.label);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn baseline(row: usize) -> f64 {
    TOP + ROW * row as f64 + THICK
}

const fn color(engine: Engine) -> &'static str {
    let [sluice, nft, iptables] = svg::COLORS;
    match engine {
        Engine::Nobody => "#999999",
        Engine::Sluice => sluice,
        Engine::Nft => nft,
        Engine::Iptables => iptables,
    }
}
