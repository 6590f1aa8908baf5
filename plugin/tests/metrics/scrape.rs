//! A client of `/metrics`, and the series that it reads.

use crate::common::{PATIENCE, Serve, program};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

/// A `serve` with `--listen`, and the address that it logged.
pub(crate) struct Served {
    pub(crate) serve: Serve,
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts `serve` on a free port.
    pub(crate) fn start(node: &Node, words: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        all.extend(words);
        let mut serve =
            Serve(program(node, &all).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let mut log = BufReader::new(serve.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut listening = |line: String| {
            let address = line.split("address=").nth(1).filter(|_| line.contains("listening for metrics"));
            address.map(|address| address.split_whitespace().next().unwrap().parse().unwrap())
        };
        let address = log.find_map(&mut listening).expect("serve listens");
        // serve must be able to write its log.
        std::thread::spawn(move || log.for_each(drop));
        Self { serve, address }
    }

    /// Returns the series of a scrape.
    pub(crate) fn scrape(&self) -> Series {
        Series::parse(&get(self.address, "/metrics").body)
    }

    /// Scrapes until the series are as wanted.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut wanted: impl FnMut(&Series) -> bool) -> Series {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let series = self.scrape();
            if wanted(&series) {
                return series;
            }
            let shown: Vec<_> = series.values.iter().filter(|(name, ..)| !name.contains("_bucket")).collect();
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {shown:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a request as it is. Returns the answer.
pub(crate) fn request(address: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Gets a path.
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
}

/// The labels of a series by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// The series of a scrape.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Series {
    /// Type and help of each family by name.
    pub(crate) families: BTreeMap<String, (String, String)>,
    /// The values by name and labels.
    pub(crate) values: Vec<(String, Labels, f64)>,
}

impl Series {
    /// Parses Prometheus' text or OpenMetrics strictly: every line is a comment of a known kind or a sample.
    pub(crate) fn parse(text: &str) -> Self {
        let mut series = Self::default();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) =
                    (words.next().unwrap(), words.next(), words.next().unwrap_or_default());
                let family = name.map(|name| series.families.entry(name.to_owned()).or_default());
                match (kind, family) {
                    ("HELP", Some(family)) => rest.clone_into(&mut family.1),
                    ("TYPE", Some(family)) => rest.clone_into(&mut family.0),
                    ("UNIT", Some(_)) => {}
                    ("EOF", None) => assert!(text.ends_with("# EOF\n")),
                    _ => panic!("{line}"),
                }
            } else {
                series.values.push(sample(line));
            }
        }
        let mut all: Vec<_> = series.values.iter().map(|(name, labels, _)| (name, labels)).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a series comes twice");
        series
    }

    /// Returns the value of the series with this name and at least these labels. None without such a series.
    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.all(name, labels);
        assert!(found.len() <= 1, "{name}{labels:?}: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// Returns all series with this name and at least these labels.
    pub(crate) fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&Labels, f64)> {
        let fits = |known: &Labels| {
            labels.iter().all(|(name, value)| known.get(*name).is_some_and(|known| known == value))
        };
        let found = self.values.iter().filter(|(known, labels, _)| known == name && fits(labels));
        found.map(|(_, labels, value)| (labels, *value)).collect()
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"").unwrap();
            let mut text = String::new();
            let mut characters = value.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => text.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        other => panic!("\\{other}: {line}"),
                    }),
                    (_, other) => text.push(other),
                }
            };
            assert_eq!(labels.insert(label.trim_start_matches(',').to_owned(), text), None, "{line}");
            rest = &value[end + 1..];
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
    (name.to_owned(), labels, value)
}
