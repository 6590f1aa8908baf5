//! The file of versions: one line a part, with its name, its version and further words.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;

/// The line of the other versions of Kubernetes.
const ON_DEMAND: &str = "kubernetes-on-demand";

/// A version of Kubernetes that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// MAJOR.MINOR.PATCH.
    pub version: String,
    /// The name of the module file in parts/kubernetes, without `.mod`.
    pub module: String,
}

/// The versions of all parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions(BTreeMap<String, String>);

impl Versions {
    /// Reads tests/cluster/versions of a repository.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or a line is malformed.
    pub fn read(top: &Path) -> Result<Self> {
        Self::parse(&xtask::process::read(&top.join("tests/cluster/versions"))?)
    }

    /// Parses the file: `NAME VERSION [WORD...]`, comments from `#` on.
    ///
    /// # Errors
    ///
    /// Fails with the number of a line without a version, or with a name that an earlier line has.
    pub fn parse(text: &str) -> Result<Self> {
        let mut versions = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let number = index.saturating_add(1);
            let Some((name, rest)) = line.split_once(char::is_whitespace) else {
                return Err(format!("versions, line {number}: {line} has no version").into());
            };
            if versions.insert(name.to_owned(), rest.trim().to_owned()).is_some() {
                return Err(format!("versions, line {number}: {name} appears twice").into());
            }
        }
        Ok(Self(versions))
    }

    /// Returns a version of Kubernetes: the one that is always tested, or another one by its number.
    ///
    /// # Errors
    ///
    /// Fails if the file does not list the number.
    pub fn kubernetes(&self, wanted: Option<&str>) -> Result<Kubernetes> {
        let tested = self.of("kubernetes")?;
        let Some(wanted) = wanted.filter(|wanted| *wanted != tested) else {
            return Ok(Kubernetes { version: tested.into(), module: "go".into() });
        };
        let others = self.of(ON_DEMAND)?;
        let Some(version) = others.split_whitespace().find(|version| *version == wanted) else {
            return Err(
                format!("no Kubernetes {wanted}: tests/cluster/versions lists {tested} {others}").into()
            );
        };
        let module = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        Ok(Kubernetes { version: version.into(), module: module.into() })
    }

    /// Returns what follows the name of a part.
    ///
    /// # Errors
    ///
    /// Fails if no line has the name.
    pub fn of(&self, name: &str) -> Result<&str> {
        let version = self.0.get(name).map(String::as_str);
        version.ok_or_else(|| format!("tests/cluster/versions has no line {name}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask::context::Context;

    #[test]
    fn lines_have_names_and_versions() {
        let versions =
            Versions::parse("# head\n\netcd 3.7.3\ndebian bookworm 1 # the number counts\n").unwrap();
        assert_eq!(versions.of("etcd").unwrap(), "3.7.3");
        assert_eq!(versions.of("debian").unwrap(), "bookworm 1");
        assert_eq!(versions.of("runc").unwrap_err().to_string(), "tests/cluster/versions has no line runc");
    }

    #[test]
    fn malformed_lines_are_refused_with_their_numbers() {
        let error = |text| Versions::parse(text).unwrap_err().to_string();
        assert_eq!(error("a 1\nb\n"), "versions, line 2: b has no version");
        assert_eq!(error("a 1\n\na 2\n"), "versions, line 3: a appears twice");
    }

    #[test]
    fn kubernetes_is_the_tested_version_or_a_listed_one() {
        let versions = Versions::parse("kubernetes 1.37.2\nkubernetes-on-demand 1.30.1 1.34.4\n").unwrap();
        let module = |wanted| versions.kubernetes(wanted).map(|found| (found.version, found.module)).unwrap();
        assert_eq!(module(None), ("1.37.2".into(), "go".into()));
        assert_eq!(module(Some("1.37.2")), ("1.37.2".into(), "go".into()));
        assert_eq!(module(Some("1.34.4")), ("1.34.4".into(), "1.34".into()));
        let error = versions.kubernetes(Some("1.34")).unwrap_err().to_string();
        assert_eq!(error, "no Kubernetes 1.34: tests/cluster/versions lists 1.37.2 1.30.1 1.34.4");
    }

    #[test]
    fn go_modules_name_the_same_versions() {
        let top = Context::new().unwrap().top;
        let versions = Versions::read(&top).unwrap();
        for (part, module) in [
            ("kubernetes", "k8s.io/kubernetes"),
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("containerd", "github.com/containerd/containerd/v2"),
        ] {
            let file = top.join("tests/cluster/parts").join(part).join("go.mod");
            let text = xtask::process::read(&file).unwrap();
            let required = format!("{module} v{}", versions.of(part).unwrap());
            assert!(text.contains(&required), "{} does not require {required}", file.display());
        }
        for version in versions.of(ON_DEMAND).unwrap().split_whitespace() {
            let Kubernetes { module, .. } = versions.kubernetes(Some(version)).unwrap();
            let file = top.join("tests/cluster/parts/kubernetes").join(format!("{module}.mod"));
            let required = format!("k8s.io/kubernetes v{version}");
            assert!(xtask::process::read(&file).unwrap().contains(&required), "{}", file.display());
        }
    }
}
