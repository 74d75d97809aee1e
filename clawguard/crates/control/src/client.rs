//! The client's side.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::api::{ErrorBody, ErrorDetail};

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("the daemon cannot be reached at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or what came is no answer.
    #[error("the daemon's answer cannot be read: {0}")]
    Broken(String),
    /// The daemon refuses.
    #[error("{}", .0.message)]
    Refused(ErrorDetail),
}

/// Speaks to the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For a socket. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `GET`
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// `POST`, `PUT` or `DELETE` with a body.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Broken(error.to_string()))?;
        self.ask(method, path, Bytes::from(body)).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let response = self.request(method, path, body, "application/json").await?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let body = response.into_body().collect().await.map_err(|error| Error::Broken(error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| Error::Broken(error.to_string()))
    }

    /// Follows an event stream until it ends or `each` answers false.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn follow(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), Error> {
        let response = self.request(Method::GET, path, Bytes::new(), "text/event-stream").await?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let mut body = response.into_body();
        let mut waiting = String::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Broken(error.to_string()))?;
            let Some(data) = frame.data_ref() else { continue };
            waiting.push_str(&String::from_utf8_lossy(data));
            while let Some(end) = waiting.find("\n\n") {
                let event: String = waiting.drain(..end + 2).collect();
                if let Some(data) = event.trim_end().strip_prefix("data: ")
                    && !each(data)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &'static str,
    ) -> Result<Response<Incoming>, Error> {
        let broken = |error: &dyn std::fmt::Display| Error::Broken(error.to_string());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Error::Unreachable { path: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::spawn(async move {
            // What breaks here breaks the request, which tells.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "clawguard")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| broken(&e))?;
        sender.send_request(request).await.map_err(|e| broken(&e))
    }
}

/// Why the daemon refuses, as it says.
async fn refused(response: Response<Incoming>) -> Error {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error::Broken(error.to_string()),
    };
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => Error::Refused(body.error),
        Err(error) => Error::Broken(format!("status {status}: {error}")),
    }
}

/// Escapes a name for a path.
#[must_use]
pub fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
