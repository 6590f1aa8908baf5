//! A stand-in for the API server over HTTP: stores ResourceSlices with versions and watches, and claims.

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

/// The longest pause of the driver between two attempts, and more.
const PATIENCE: Duration = Duration::from_secs(60);
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// How the server answers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As a server that stores everything.
    #[default]
    Normal,
    /// It closes each connection.
    Away,
    /// It refuses writes of slices.
    Forbidden,
}

#[derive(Default)]
struct State {
    mode: Mode,
    version: u64,
    slices: BTreeMap<String, Value>,
    claims: BTreeMap<String, Value>,
    /// All events so far: the version, and the line of a watch.
    events: Vec<(u64, Value)>,
    /// All writes of slices that were answered, but for dry runs: the method, the generation, and the status of the answer.
    writes: Vec<(String, i64, u16)>,
}

/// A running server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    address: std::net::SocketAddr,
}

type Body = BoxBody<Bytes, Infallible>;

impl ApiServer {
    /// Starts a server on a thread of its own, because tests block while they run commands. It ends with the test program.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Self { state: Arc::default(), changed: watch::Sender::new(0), address };
        let of_thread = server.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(of_thread.accept(listener));
        });
        server
    }

    async fn accept(self, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let server = self.clone();
            tokio::spawn(async move {
                let connection = server.clone();
                let service = service_fn(move |request| connection.clone().answer(request));
                let http = hyper::server::conn::http1::Builder::new();
                let mut changes = server.changed.subscribe();
                let away = changes.wait_for(|_| server.state.lock().unwrap().mode == Mode::Away);
                tokio::select! {
                    // A request that has come with the connection has no answer either.
                    biased;
                    _ = away => {}
                    _ = http.serve_connection(TokioIo::new(stream), service) => {}
                }
            });
        }
    }

    /// Returns the text of a kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        config.to_string()
    }

    /// Sets how the server answers from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
        self.changed.send_modify(|_| {});
    }

    /// Stores a claim that is allocated a device and reserved for a pod.
    pub fn add_claim(&self, name: &str, device: &str, pod: (&str, &str)) {
        let result =
            json!({"driver": "vfio-probe.github.io", "request": "gpu", "pool": "node-1", "device": device});
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": "default", "uid": uid(name)},
            "spec": {},
            "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": pod.0, "uid": pod.1}],
            },
        });
        self.state.lock().unwrap().claims.insert(name.to_owned(), claim);
    }

    /// Removes a claim.
    pub fn remove_claim(&self, name: &str) {
        self.state.lock().unwrap().claims.remove(name).unwrap();
    }

    /// Stores a slice of a driver and a pool on the node.
    pub fn add_slice(&self, driver: &str, pool: &str, device: &Value) {
        let spec = json!({
            "driver": driver, "nodeName": "node-1", "devices": [device],
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
        });
        self.store(
            &format!("{driver}-1"),
            json!({"metadata": {"name": format!("{driver}-1"), "uid": driver}, "spec": spec}),
            "ADDED",
        );
    }

    /// Returns the devices of the plugin's slices, each with the name of its taint without the domain.
    pub fn devices(&self) -> BTreeMap<String, Option<String>> {
        let state = self.state.lock().unwrap();
        let ours = state.slices.values().filter(|slice| slice["spec"]["driver"] == "vfio-probe.github.io");
        let devices = ours.flat_map(|slice| slice["spec"]["devices"].as_array().cloned().unwrap_or_default());
        let taint = |device: &Value| {
            let key = device["taints"][0]["key"].as_str()?;
            Some(key.strip_prefix("vfio-probe.github.io/").unwrap().to_owned())
        };
        devices.map(|device| (device["name"].as_str().unwrap().to_owned(), taint(&device))).collect()
    }

    /// Waits until the slices are as wanted.
    pub async fn expect(&self, what: &str, wanted: impl Fn(&BTreeMap<String, Option<String>>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.devices()) {
            assert!(Instant::now() < deadline, "{what}: {:#?}", self.devices());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes all slices at once, as the kubelet does when it starts.
    pub fn delete_slices(&self) {
        let mut state = self.state.lock().unwrap();
        for (name, slice) in state.slices.clone() {
            Self::store_in(&mut state, &name, slice, "DELETED");
        }
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
    }

    /// Waits until so many writes of slices were answered, and returns all: the method, the generation, and the status of the answer.
    pub async fn writes(&self, count: usize) -> Vec<(String, i64, u16)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let writes = self.state.lock().unwrap().writes.clone();
            if writes.len() >= count {
                return writes;
            }
            assert!(Instant::now() < deadline, "not {count} writes: {writes:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn store(&self, name: &str, slice: Value, event: &str) -> Value {
        let mut state = self.state.lock().unwrap();
        let slice = Self::store_in(&mut state, name, slice, event);
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
        slice
    }

    fn store_in(state: &mut State, name: &str, mut slice: Value, event: &str) -> Value {
        state.version += 1;
        let version = state.version;
        slice["metadata"]["resourceVersion"] = version.to_string().into();
        (slice["apiVersion"], slice["kind"]) = ("resource.k8s.io/v1".into(), "ResourceSlice".into());
        match event {
            "DELETED" => state.slices.remove(name),
            _ => state.slices.insert(name.to_owned(), slice.clone()),
        };
        state.events.push((version, json!({"type": event, "object": slice})));
        slice
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let is_write = parts.method != Method::GET;
        let is_dry_run = query.contains("dryRun=All");
        let mode = self.state.lock().unwrap().mode;
        if is_write && mode == Mode::Forbidden {
            return Ok(failure(StatusCode::FORBIDDEN, "resourceslices is forbidden"));
        }
        if is_write && is_dry_run {
            let slice: Value = serde_json::from_slice(&body).unwrap();
            return Ok(respond(StatusCode::OK, &slice));
        }
        let name = path.strip_prefix(SLICES).map(|rest| rest.trim_start_matches('/').to_owned());
        let generation = serde_json::from_slice(&body)
            .ok()
            .and_then(|slice: Value| slice["spec"]["pool"]["generation"].as_i64());
        let (method, is_of_slices) = (parts.method.to_string(), name.is_some());
        let response = self.clone().stored(&parts.method, name, &path, &query, &body);
        if is_write && is_of_slices {
            let write = (method, generation.unwrap_or(0), response.status().as_u16());
            self.state.lock().unwrap().writes.push(write);
        }
        Ok(response)
    }

    /// Answers a request that is not refused as a whole.
    fn stored(
        self,
        method: &Method,
        name: Option<String>,
        path: &str,
        query: &str,
        body: &Bytes,
    ) -> Response<Body> {
        match (method, name) {
            (&Method::GET, Some(_)) if query.contains("watch=true") => self.watch(query),
            (&Method::GET, Some(_)) => self.list(query),
            (&Method::POST, Some(_)) => {
                let mut slice: Value = serde_json::from_slice(body).unwrap();
                let name = format!(
                    "{}{}",
                    slice["metadata"]["generateName"].as_str().unwrap(),
                    self.state.lock().unwrap().version
                );
                (slice["metadata"]["name"], slice["metadata"]["uid"]) =
                    (name.clone().into(), uid(&name).into());
                respond(StatusCode::CREATED, &self.store(&name, slice, "ADDED"))
            }
            (&Method::PUT, Some(name)) => {
                let slice: Value = serde_json::from_slice(body).unwrap();
                let known = self.state.lock().unwrap().slices.get(&name).cloned();
                let version = |slice: &Value| slice["metadata"]["resourceVersion"].clone();
                match known {
                    None => failure(StatusCode::NOT_FOUND, "not found"),
                    Some(known) if version(&known) != version(&slice) => {
                        failure(StatusCode::CONFLICT, "the object has been modified")
                    }
                    Some(_) => respond(StatusCode::OK, &self.store(&name, slice, "MODIFIED")),
                }
            }
            (&Method::DELETE, Some(name)) => {
                let known = self.state.lock().unwrap().slices.get(&name).cloned();
                match known {
                    None => failure(StatusCode::NOT_FOUND, "not found"),
                    // As the admission policy of deploy/dra.
                    Some(known) if known["spec"]["pool"]["name"] != "node-1" => failure(
                        StatusCode::FORBIDDEN,
                        "this driver may change only the pool of its node node-1",
                    ),
                    Some(known) => respond(StatusCode::OK, &self.store(&name, known, "DELETED")),
                }
            }
            _ => self.other(path),
        }
    }

    fn other(&self, path: &str) -> Response<Body> {
        let claim = path.strip_prefix("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/");
        let claim = claim.and_then(|name| self.state.lock().unwrap().claims.get(name).cloned());
        match (path, claim) {
            ("/version", _) => {
                let mut info = json!({"major": "1", "minor": "37"});
                for key in [
                    "buildDate",
                    "compiler",
                    "gitCommit",
                    "gitTreeState",
                    "gitVersion",
                    "goVersion",
                    "platform",
                ] {
                    info[key] = "".into();
                }
                respond(StatusCode::OK, &info)
            }
            ("/api/v1/nodes/node-1", _) => respond(
                StatusCode::OK,
                &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "uid": "n1"}}),
            ),
            (_, Some(claim)) => respond(StatusCode::OK, &claim),
            _ => failure(StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn list(&self, query: &str) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state.slices.values().filter(|slice| is_selected(query, slice)).collect();
        let list = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSliceList",
            "metadata": {"resourceVersion": state.version.to_string()}, "items": items,
        });
        respond(StatusCode::OK, &list)
    }

    fn watch(&self, query: &str) -> Response<Body> {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
        let mut sent: u64 = from.and_then(|version| version.parse().ok()).unwrap_or(0);
        let (server, query) = (self.clone(), query.to_owned());
        let lines = WatchStream::new(self.changed.subscribe()).map(move |_| {
            let state = server.state.lock().unwrap();
            let (mut text, after) = (String::new(), sent);
            for (version, event) in state.events.iter().filter(|(version, _)| *version > after) {
                if is_selected(&query, &event["object"]) {
                    text += &(event.to_string() + "\n");
                }
                sent = *version;
            }
            Ok::<_, Infallible>(Frame::data(Bytes::from(text)))
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(lines)));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }
}

/// Returns the uid that the server gives to an object.
pub fn uid(name: &str) -> String {
    format!("uid-of-{name}")
}

/// Returns whether a field selector selects a slice.
fn is_selected(query: &str, slice: &Value) -> bool {
    let query = query.replace("%3D", "=").replace("%2C", ",");
    let value = |field: &str| {
        let (_, rest) = query.split_once(&format!("{field}="))?;
        rest.split([',', '&']).next().map(str::to_owned)
    };
    let fits = |wanted: Option<String>, found: &Value| wanted.is_none_or(|wanted| *found == wanted);
    fits(value("spec.driver"), &slice["spec"]["driver"])
        && fits(value("spec.nodeName"), &slice["spec"]["nodeName"])
}

fn respond(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn failure(status: StatusCode, message: &str) -> Response<Body> {
    let value = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "reason": "x",
        "code": status.as_u16(),
    });
    respond(status, &value)
}
