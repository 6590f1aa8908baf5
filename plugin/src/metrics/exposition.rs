//! Writes all series as OpenMetrics or as Prometheus' text.
//!
//! docs/metrics.md says what each series means, and a test compares the two.

mod devices;
mod driver;
mod events;

use crate::driver_status::DriverStatus;
use crate::metrics::Metrics;
use crate::problems::Problem;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::histogram::Histogram;

/// The format of a scrape's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, for clients that do not accept OpenMetrics.
    Text,
}

impl Format {
    /// Returns the value of Content-Type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// What one scrape shows.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) metrics: Arc<Metrics>,
    /// Each served resource, and whether it is registered with the kubelet.
    pub(crate) registered: Vec<(String, bool)>,
    /// The DRA driver; none if it does not run.
    pub(crate) driver: Option<DriverStatus>,
    /// The current problems.
    pub(crate) problems: Vec<Problem>,
    /// Log lines that were lost since the start.
    pub(crate) log_lines_lost: u64,
}

impl Scrape {
    /// Returns the text of all series.
    ///
    /// # Errors
    /// Never, as long as a `String` grows.
    pub(crate) fn text(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("vfio");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut text, &registry)?,
            Format::Text => prometheus_text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        families
            .gauge("build_info", "Always 1; the version of the plugin", |series| series.gauge(&version, 1))?;
        if let Some(pass) = self.metrics.latest_pass() {
            devices::encode(&mut families, &pass)?;
        }
        self.encode_serve(&mut families)?;
        if let Some(driver) = &self.driver {
            driver::encode(&mut families, driver)?;
        }
        events::encode(&mut families, &self.metrics.counters, self.log_lines_lost)
    }
}

impl Scrape {
    /// Writes the state of `serve` itself.
    fn encode_serve(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Whether the kubelet has accepted the registration of the resource";
        families.gauge("resource_registered", help, |series| {
            let mut all = self.registered.iter();
            all.try_for_each(|(name, is)| series.gauge(&[("resource", name.as_str())], i64::from(*is)))
        })?;
        let codes: BTreeSet<String> = self.problems.iter().map(|problem| problem.code.word()).collect();
        families.gauge("problem", "1 for each kind of problem that serve has now", |series| {
            codes.iter().try_for_each(|code| series.gauge(&[("code", code.as_str())], 1))
        })
    }
}

/// Writes families of series.
struct Families<'a>(DescriptorEncoder<'a>);

/// Writes the series of one family.
struct Series<'a>(MetricEncoder<'a>);

/// Labels and their values, written as they are.
struct Labels<'a>(&'a [(&'static str, &'a str)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

impl Families<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        series: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        series(&mut Series(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        series: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        series(&mut Series(self.0.encode_descriptor(name, help, None, MetricType::Counter)?))
    }

    /// Writes a histogram of durations.
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let values = histogram.values();
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(values.sum, values.count, &values.buckets, None)
    }
}

impl Series<'_> {
    fn gauge(&mut self, labels: &[(&'static str, &str)], value: i64) -> fmt::Result {
        self.0.encode_family(&Labels(labels))?.encode_gauge(&value)
    }

    fn count(&mut self, labels: &[(&'static str, &str)], counter: &AtomicU64) -> fmt::Result {
        self.value(labels, counter.load(Ordering::Relaxed))
    }

    fn value(&mut self, labels: &[(&'static str, &str)], value: u64) -> fmt::Result {
        self.0.encode_family(&Labels(labels))?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }
}
