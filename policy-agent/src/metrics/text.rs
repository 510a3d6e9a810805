//! The two formats that scrapers ask for.

/// A format of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    OpenMetrics,
    /// What everything understands, Prometheus before 2.5 too.
    PrometheusText,
}

impl Exposition {
    /// What a request's Accept header asks for. Prometheus names OpenMetrics where it wants it; nobody else does.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::PrometheusText }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// OpenMetrics in this format.
    pub fn of(self, openmetrics: &str) -> String {
        match self {
            Self::OpenMetrics => openmetrics.to_owned(),
            Self::PrometheusText => prometheus(openmetrics),
        }
    }
}

/// The older format describes samples, not families: a counter's name has its suffix, an info is a gauge; it knows neither
/// units nor an end.
fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format() {
        let openmetrics = "\
# HELP a_seconds Time.
# TYPE a_seconds counter
# UNIT a_seconds seconds
a_seconds_total{x=\"1\"} 2
# HELP build What.
# TYPE build info
build_info{version=\"1\"} 1
# HELP g G.
# TYPE g gauge
g 1
# EOF
";
        let expected = "\
# HELP a_seconds_total Time.
# TYPE a_seconds_total counter
a_seconds_total{x=\"1\"} 2
# HELP build_info What.
# TYPE build_info gauge
build_info{version=\"1\"} 1
# HELP g G.
# TYPE g gauge
g 1
";
        assert_eq!(Exposition::PrometheusText.of(openmetrics), expected);
        assert_eq!(Exposition::OpenMetrics.of(openmetrics), openmetrics);
    }

    #[test]
    fn what_scrapers_ask_for() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Exposition::accepted(prometheus), Exposition::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/json"] {
            assert_eq!(Exposition::accepted(other), Exposition::PrometheusText, "{other}");
        }
    }
}
