//! Says what the API server's answers and errors mean.

use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// How long one request to the API server may take. A limit that grows begins with it.
pub(super) const REQUEST: Duration = Duration::from_secs(5);

/// A request that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RequestError {
    /// The API server answered that the object has changed or is gone.
    Outdated,
    /// The API server answered that it does not carry the request out.
    Refused(String),
    /// There is no answer, or the API server could not say. It may carry the request out later.
    Unanswered(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outdated => f.write_str("another program has changed the object"),
            Self::Refused(error) | Self::Unanswered(error) => f.write_str(error),
        }
    }
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Outdated,
            kube::Error::Api(status) if (400..500).contains(&status.code) => {
                Self::Refused(refusal(status.code, &status.message))
            }
            _ => Self::Unanswered(causes(&error)),
        }
    }
}

/// Waits for an answer of the API server whose absence is no problem.
pub(super) async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Unanswered(format!("no answer within {} s", REQUEST.as_secs()))),
    }
}

/// Returns the API server's refusal, with what to do about it.
fn refusal(code: u16, message: &str) -> String {
    match code {
        401 => format!("{message} (401): the token has expired or is of another cluster"),
        403 => format!("{message} (403): the driver's ClusterRole lacks the right"),
        _ => format!("{message} ({code})"),
    }
}

/// Returns an error with its causes. The error alone often hides why no connection was made, such as a wrong certificate.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn answer(code: u16, message: &str) -> RequestError {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        RequestError::from(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn answer_shows_whether_the_request_may_still_be_carried_out() {
        assert_eq!(answer(404, "gone"), RequestError::Outdated);
        assert_eq!(answer(409, "conflict"), RequestError::Outdated);
        assert!(matches!(answer(500, "etcdserver: request timed out"), RequestError::Unanswered(_)));
        assert!(matches!(answer(504, "timeout"), RequestError::Unanswered(_)));
        let expired = "Unauthorized (401): the token has expired or is of another cluster";
        assert_eq!(answer(401, "Unauthorized"), RequestError::Refused(expired.to_owned()));
        assert!(answer(403, "no").to_string().contains("ClusterRole"));
    }
}
