//! Curves as SVG: a panel for each cost, over the number of pods; both scales are logarithmic, and each target is a
//! dashed line.

use std::fmt::Write as _;

use crate::svg;

pub(crate) struct Panel {
    pub title: &'static str,
    pub target: f64,
    pub curves: Vec<Curve>,
}

pub(crate) struct Curve {
    pub name: &'static str,
    /// Pods, and what that many cost.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 230.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 34.0;
const GAP: f64 = 78.0;
const BOTTOM: f64 = 34.0;

pub(crate) fn draw(panels: &[Panel]) -> String {
    let width = LEFT + (WIDTH + GAP) * panels.len() as f64;
    let mut svg = svg::begin(width, TOP + HEIGHT + BOTTOM, "What a cluster costs the agent, by its pods");
    for (number, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, LEFT + (WIDTH + GAP) * number as f64, panel);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, left: f64, Panel { title, target, curves }: &Panel) {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let across = Scale::of(points().map(|(pods, _)| pods), WIDTH);
    let up = Scale::of(points().map(|(_, cost)| cost).chain([*target]), HEIGHT);
    let place = |(pods, cost): (f64, f64)| (left + across.at(pods), TOP + HEIGHT - up.at(cost));
    svg::text(svg, left, TOP - 14.0, "start", title);
    for decade in up.decades() {
        let y = TOP + HEIGHT - up.at(decade);
        svg::line(svg, (left, y), (left + WIDTH, y), "#e0e0e0", None);
        svg::text(svg, left - 5.0, y + 4.0, "end", &decade.to_string());
    }
    let y = TOP + HEIGHT - up.at(*target);
    svg::line(svg, (left, y), (left + WIDTH, y), "#999999", Some("4 3"));
    svg::text(svg, left + 3.0, y - 4.0, "start", &format!("target: {target}"));
    for (pods, _) in curves.first().iter().flat_map(|curve| curve.points.iter()) {
        svg::text(
            svg,
            left + across.at(*pods),
            TOP + HEIGHT + 18.0,
            "middle",
            &format!("{}k", pods / 1000.0),
        );
    }
    for (curve, color) in curves.iter().zip(svg::COLORS) {
        let places: Vec<(f64, f64)> = curve.points.iter().copied().map(place).collect();
        let list: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let list = list.join(" ");
        let _ = writeln!(svg, r#"<polyline points="{list}" fill="none" stroke="{color}" stroke-width="2"/>"#);
        for (x, y) in &places {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{color}"/>"#);
        }
        if let Some((x, y)) = places.last() {
            svg::text(svg, x + 6.0, y + 4.0, "start", curve.name);
        }
    }
}

/// Logarithmic, over whole decades.
struct Scale {
    low: f64,
    high: f64,
    length: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, length: f64) -> Self {
        // What is too quick to measure has no logarithm.
        let exponents: Vec<f64> = values.map(|value| value.max(1e-3).log10()).collect();
        let low = exponents.iter().copied().fold(f64::INFINITY, f64::min).floor();
        let high = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
        Self { low, high: high.max(low + 1.0), length }
    }

    fn at(&self, value: f64) -> f64 {
        (value.max(1e-3).log10() - self.low) / (self.high - self.low) * self.length
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low, self.high);
        std::iter::successors(Some(low), move |at| Some(at + 1.0))
            .take_while(move |at| *at <= high)
            .map(|at| 10_f64.powf(at))
    }
}
