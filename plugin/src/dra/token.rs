//! The bearer token of requests to the API server.

use crate::files::{self, Links};
use anyhow::Context;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue};
use kube::config::AuthInfo;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Limit for the size of a token file in bytes.
const MAX_SIZE: u64 = 64 << 10;

/// A token, or a file with one. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    file: Option<PathBuf>,
    /// The header of the latest token.
    header: Arc<Mutex<HeaderValue>>,
}

impl Token {
    /// Returns the token of these credentials. None if they have none.
    ///
    /// # Errors
    /// The file cannot be read, or the token cannot be sent.
    pub(super) fn of(credentials: &AuthInfo) -> anyhow::Result<Option<Self>> {
        let (file, header) = match (&credentials.token, &credentials.token_file) {
            (Some(token), _) => (None, header(token.expose_secret())?),
            (None, Some(file)) => {
                let file = PathBuf::from(file);
                let header = read(&file).with_context(|| format!("token {}", file.display()))?;
                (Some(file), header)
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { file, header: Arc::new(Mutex::new(header)) }))
    }

    /// Adds the token to a request. The file is read for each request, because the kubelet replaces it before the token expires. If it
    /// cannot be read, the latest token is sent (kubernetes/kubernetes#68164).
    pub(super) fn authorize<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(header) = self.file.as_deref().and_then(|file| read(file).ok()) {
            *self.header.lock() = header;
        }
        request.headers_mut().insert(AUTHORIZATION, self.header.lock().clone());
        request
    }
}

/// Reads a token file. A projected token is a link.
fn read(file: &Path) -> anyhow::Result<HeaderValue> {
    header(&String::from_utf8(files::read(file, Links::Follow, MAX_SIZE)?)?)
}

fn header(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).context("it is no token")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn sent(token: &Token) -> String {
        let request = token.authorize(Request::new(()));
        request.headers()[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn replaced_token_is_sent_and_a_removed_one_as_well() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "first\n").unwrap();
        let credentials = AuthInfo { token_file: file.to_str().map(str::to_owned), ..AuthInfo::default() };
        let token = Token::of(&credentials).unwrap().unwrap();
        assert_eq!(sent(&token), "Bearer first");
        std::fs::write(&file, "second").unwrap();
        assert_eq!(sent(&token), "Bearer second");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(sent(&token), "Bearer second");
        assert!(!format!("{token:?}").contains("second"), "a token is not logged");
    }

    #[test]
    fn credentials_without_a_token_or_with_a_broken_one() {
        assert!(Token::of(&AuthInfo::default()).unwrap().is_none());
        let broken = AuthInfo { token: Some("a\nb".to_owned().into()), ..AuthInfo::default() };
        assert_eq!(Token::of(&broken).unwrap_err().to_string(), "it is no token");
    }
}
