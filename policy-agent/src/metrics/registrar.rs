//! Registering metrics so that each is described at the same time: what is exposed and docs/metrics.md are one list.

use std::fmt::Debug;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

/// Names of labels with their values.
pub(super) type LabelSet<const N: usize> = [(&'static str, &'static str); N];
type MakeHistogram = fn() -> Histogram;

/// One metric, as the reference shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// With unit and suffix, as in a query.
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) labels: Vec<&'static str>,
    pub(super) help: &'static str,
}

/// A family whose label names are given once.
#[derive(Clone, Debug)]
pub(super) struct Labelled<const N: usize, M, C = fn() -> M> {
    names: [&'static str; N],
    family: Family<LabelSet<N>, M, C>,
}

impl<const N: usize, M: Clone, C: MetricConstructor<M>> Labelled<N, M, C> {
    pub(super) fn at(&self, values: [&'static str; N]) -> M {
        let mut labels = self.names.map(|name| (name, ""));
        for (label, value) in labels.iter_mut().zip(values) {
            label.1 = value;
        }
        self.family.get_or_create_owned(&labels)
    }

    /// Forgets every label set.
    pub(super) fn clear(&self) {
        self.family.clear();
    }
}

#[derive(Debug, Default)]
pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) described: Vec<Described>,
}

impl Registrar {
    pub(super) fn counter<M>(&mut self, name: &str, unit: Option<Unit>, help: &'static str) -> M
    where
        M: Metric + Clone + Default,
    {
        let metric = M::default();
        self.register(name, unit, ("counter", "_total"), &[], help, metric.clone());
        metric
    }

    pub(super) fn gauge<M>(&mut self, name: &str, unit: Option<Unit>, help: &'static str) -> M
    where
        M: Metric + Clone + Default,
    {
        let metric = M::default();
        self.register(name, unit, ("gauge", ""), &[], help, metric.clone());
        metric
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &'static str,
        make: MakeHistogram,
    ) -> Histogram {
        let metric = make();
        self.register(name, unit, ("histogram", ""), &[], help, metric.clone());
        metric
    }

    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        names: [&'static str; N],
        help: &'static str,
    ) -> Labelled<N, Counter> {
        let family = Family::new_with_constructor(Counter::default as fn() -> Counter);
        self.register(name, unit, ("counter", "_total"), &names, help, family.clone());
        Labelled { names, family }
    }

    pub(super) fn gauges<const N: usize, M>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        names: [&'static str; N],
        help: &'static str,
    ) -> Labelled<N, M>
    where
        M: Metric + prometheus_client::metrics::TypedMetric + Clone + Default,
    {
        let family = Family::new_with_constructor(M::default as fn() -> M);
        self.register(name, unit, ("gauge", ""), &names, help, family.clone());
        Labelled { names, family }
    }

    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        names: [&'static str; N],
        help: &'static str,
        make: MakeHistogram,
    ) -> Labelled<N, Histogram> {
        let family = Family::new_with_constructor(make);
        self.register(name, unit, ("histogram", ""), &names, help, family.clone());
        Labelled { names, family }
    }

    pub(super) fn info<const N: usize>(&mut self, name: &str, labels: LabelSet<N>, help: &'static str) {
        let names = labels.map(|(name, _)| name);
        self.register(name, None, ("info", "_info"), &names, help, Info::new(labels.to_vec()));
    }

    fn register(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        (kind, suffix): (&'static str, &'static str),
        labels: &[&'static str],
        help: &'static str,
        metric: impl Metric,
    ) {
        let with_unit = unit.as_ref().map_or(name.to_owned(), |unit| format!("{name}_{}", unit.as_str()));
        self.described.push(Described {
            name: format!("{with_unit}{suffix}"),
            kind,
            labels: labels.to_vec(),
            help,
        });
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric),
            None => self.registry.register(name, help, metric),
        }
    }
}

/// A gauge of anything that is no whole number.
pub(super) type Fraction = Gauge<f64, std::sync::atomic::AtomicU64>;
