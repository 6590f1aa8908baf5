//! What each path answers.

use crate::http::HttpServer;
use crate::log;
use crate::metrics::exposition::{Format, Scrape};
use crate::status::readiness::Readiness;
use crate::status::words::RoleWord;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;

/// The content type of probes and errors.
const PLAIN: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text";

type Answer = Response<Full<Bytes>>;

impl HttpServer {
    /// Answers a request. Reads no file, and waits for nothing.
    pub(super) fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(
                StatusCode::NOT_FOUND,
                "not found; there are /metrics, /healthz and /readyz\n".to_owned(),
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n".to_owned());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/healthz" => probe("not live", self.readiness().silent(self.interval).into_iter().collect()),
            "/readyz" => probe("not ready", self.readiness().unready(self.interval)),
            _ => self.metrics(format(request.headers())),
        }
    }

    fn readiness(&self) -> Readiness {
        let snapshot = self.monitor.snapshots.borrow().clone();
        Readiness {
            // Only the active process serves HTTP.
            role: RoleWord::Active,
            silent: self.monitor.silent_for(),
            settled: self.registry.is_set(),
            listing_failed: snapshot.is_some_and(|snapshot| snapshot.listing_failed),
            resources: self.registry.resources(),
            driver: self.registry.driver(),
        }
    }

    fn metrics(&self, format: Format) -> Answer {
        let resources = self.registry.resources().into_iter();
        let scrape = Scrape {
            metrics: Arc::clone(&self.metrics),
            registered: resources.map(|status| (status.name, status.registered)).collect(),
            driver: self.registry.driver(),
            problems: self.problems.current(),
            log_lines_lost: log::lost().0,
        };
        match scrape.text(format) {
            Ok(text) => respond(StatusCode::OK, format.content_type(), text),
            Err(_) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".to_owned())
            }
        }
    }
}

/// Answers `/healthz` or `/readyz`: 200, or 503 with the reasons.
fn probe(word: &str, reasons: Vec<String>) -> Answer {
    if reasons.is_empty() {
        return plain(StatusCode::OK, "ok\n".to_owned());
    }
    let lines = reasons.into_iter().map(|reason| format!("{word}: {reason}\n"));
    plain(StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

fn plain(status: StatusCode, text: String) -> Answer {
    respond(status, PLAIN, text)
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Returns the format that a client accepts: OpenMetrics if it names it, else text (RFC 9110, 12.5.1).
fn format(headers: &HeaderMap) -> Format {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepts.flat_map(|value| value.split(','));
    let accepts_openmetrics = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let is_type = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(OPENMETRICS));
        is_type && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    };
    if ranges.any(accepts_openmetrics) { Format::OpenMetrics } else { Format::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_the_accept_header() {
        let accept = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            format(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(accept(&[prometheus]), Format::OpenMetrics);
        assert_eq!(accept(&["text/plain", "Application/OpenMetrics-Text"]), Format::OpenMetrics);
        for values in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["application/openmetrics-text; q=0"],
            &["text/html,*/*;q=0.8"],
        ] {
            assert_eq!(accept(values), Format::Text, "{values:?}");
        }
    }
}
