//! A request of the kubelet, checked and parsed where it comes in.

use crate::allocation::AllocateError;
use crate::kubelet_id::KubeletDeviceId;

/// The most containers of one request. The kubelet sends one container a request.
pub const MAX_CONTAINERS: usize = 1024;
/// The most ids of one request, those of all its containers together.
pub const MAX_IDS: usize = 65_536;

/// The devices that an Allocate asks for, by container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The ids of each container, in the order of the request.
    pub containers: Vec<Vec<KubeletDeviceId>>,
}

impl Request {
    /// Parses the ids of each container.
    ///
    /// # Errors
    /// An invalid request: it is too large, or an id is none that this plugin lists.
    pub fn parse<'r>(
        resource: &str,
        containers: impl Iterator<Item = &'r [String]> + Clone,
    ) -> Result<Self, AllocateError> {
        check_size(containers.clone().map(<[String]>::len))?;
        let parse = |id: &String| {
            id.parse()
                .map_err(|_| AllocateError::UnknownDevice { id: shown(id), resource: resource.to_owned() })
        };
        let containers = containers.map(|ids| ids.iter().map(parse).collect());
        Ok(Self { containers: containers.collect::<Result<_, _>>()? })
    }
}

/// Checks the size of a request. `ids` are the numbers of ids of its containers.
///
/// # Errors
/// More containers than [`MAX_CONTAINERS`], or more ids than [`MAX_IDS`].
pub fn check_size(ids: impl Iterator<Item = usize>) -> Result<(), AllocateError> {
    let (containers, ids) =
        ids.fold((0_usize, 0_usize), |(containers, all), ids| (containers + 1, all + ids));
    if containers > MAX_CONTAINERS {
        return Err(AllocateError::TooLarge { what: "containers", count: containers, limit: MAX_CONTAINERS });
    }
    if ids > MAX_IDS {
        return Err(AllocateError::TooLarge { what: "device ids", count: ids, limit: MAX_IDS });
    }
    Ok(())
}

/// Returns an id for an error's text. The text of a request may be as long as the request.
fn shown(id: &str) -> String {
    const LONGEST: usize = 64;
    match id.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", id.get(..end).unwrap_or_default()),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(containers: &[Vec<String>]) -> Result<Request, String> {
        Request::parse("a.b/c", containers.iter().map(Vec::as_slice)).map_err(|error| {
            assert!(error.is_invalid_request());
            error.to_string()
        })
    }

    #[test]
    fn request_over_a_limit_is_invalid() {
        let ids = |count: usize| vec!["0000:01:00.0".to_owned(); count];
        assert!(parse(&vec![Vec::new(); MAX_CONTAINERS]).is_ok());
        let error = parse(&vec![Vec::new(); MAX_CONTAINERS + 1]).unwrap_err();
        assert_eq!(error, "the request has 1025 containers; at most 1024 are supported");
        assert!(parse(&[ids(MAX_IDS - 1), ids(1)]).is_ok());
        let error = parse(&[ids(MAX_IDS), ids(1)]).unwrap_err();
        assert_eq!(error, "the request has 65537 device ids; at most 65536 are supported");
    }

    #[test]
    fn text_that_is_no_id_is_invalid_and_shown_shortened() {
        assert_eq!(parse(&[vec!["gpu0".to_owned()]]).unwrap_err(), "gpu0: a.b/c has no such device");
        let error = parse(&[vec!["é".repeat(1_000_000)]]).unwrap_err();
        assert_eq!(error, format!("{}...: a.b/c has no such device", "é".repeat(64)));
    }
}
