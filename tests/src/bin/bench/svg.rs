//! What the plots are made of.

use std::fmt::Write as _;

/// Told apart by those too who don't see all colours (Okabe and Ito).
pub(crate) const COLORS: [&str; 3] = ["#0072b2", "#e69f00", "#009e73"];

pub(crate) fn begin(width: f64, height: f64, title: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<title>{title}</title>
<rect width="{width}" height="{height}" fill="#ffffff"/>
"##
    )
}

pub(crate) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(svg, r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#222222">{text}</text>"##);
}

pub(crate) fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str, dashes: Option<&str>) {
    let dashes = dashes.map(|dashes| format!(r#" stroke-dasharray="{dashes}""#)).unwrap_or_default();
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        r#"<line x1="{x1:.1}" x2="{x2:.1}" y1="{y1:.1}" y2="{y2:.1}" stroke="{color}"{dashes}/>"#
    );
}
