//! A real blob service (Azurite) for the tests of this binary, and a way between it and its clients that can be made rough.
//!
//! Node and npm have to be there: a storage test that passes without storage proves nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use crate::support::kafka::{unique, wait_for};
use futures_util::StreamExt;
use object_store::azure::MicrosoftAzureBuilder;

/// The account and key that every emulator has; they are no secret.
const ACCOUNT: &str = "devstoreaccount1";

/// A running Azurite; its shell kills it when the test process is gone.
pub(crate) struct Azurite {
    port: u16,
    shell: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The Azurite of this test binary.
pub(crate) fn azurite() -> &'static Azurite {
    static AZURITE: OnceLock<Azurite> = OnceLock::new();
    AZURITE.get_or_init(Azurite::start)
}

impl Azurite {
    fn start() -> Azurite {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/azurite.sh");
        let output = Command::new("sh").arg(&script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "no Azurite: {} failed; its message stands above. It needs Node 20 and npm", script.display());
        let program = String::from_utf8(output.stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = format!(
            "node {} --silent --location {} --blobHost 127.0.0.1 --blobPort {port} --skipApiVersionCheck --loose --disableTelemetry >&2 & cat >/dev/null; kill $!",
            program.trim(),
            dir.path().display()
        );
        let shell = Command::new("sh").args(["-c", &command]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let azurite = Azurite { port, shell, _dir: dir };
        wait_for("Azurite to answer", || TcpStream::connect(("127.0.0.1", port)).ok());
        azurite
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a container of its own for a test.
    pub(crate) fn container(&self, name: &str) -> String {
        let name = unique(name);
        let date = httpdate();
        let path = format!("/{ACCOUNT}/{name}");
        let signed = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}{path}\nrestype:container");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "PUT {path}?restype=container HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nx-ms-date: {date}\r\nx-ms-version: 2021-08-06\r\nAuthorization: SharedKey {ACCOUNT}:{}\r\nConnection: close\r\n\r\n",
            signature(&signed)
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        name
    }

    /// Uploads every file below a directory under its path.
    pub(crate) fn upload(&self, container: &str, root: &Path) {
        let store = self.store(container);
        let mut files = Vec::new();
        walk(root, &mut files);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let uploads = files.iter().map(|file| {
                let path = file.strip_prefix(root).unwrap().to_str().unwrap();
                let (store, path, bytes) = (&store, object_store::path::Path::parse(path).unwrap(), fs::read(file).unwrap());
                async move { object_store::ObjectStoreExt::put(store, &path, bytes.into()).await.unwrap() }
            });
            futures_util::stream::iter(uploads).buffer_unordered(8).for_each(|_| async {}).await;
        });
    }

    fn store(&self, container: &str) -> object_store::azure::MicrosoftAzure {
        MicrosoftAzureBuilder::new()
            .with_account(ACCOUNT)
            .with_access_key(key())
            .with_endpoint(format!("{}/{ACCOUNT}", self.address()))
            .with_allow_http(true)
            .with_container_name(container)
            .with_crypto_provider(Arc::new(TestCrypto))
            .build()
            .unwrap()
    }
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() { walk(&entry.path(), files) } else { files.push(entry.path()) }
    }
}

fn key() -> String {
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==".to_owned()
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = openssl::pkey::PKey::hmac(key).unwrap();
    let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::sha256(), &key).unwrap();
    signer.sign_oneshot_to_vec(text).unwrap()
}

fn signature(text: &str) -> String {
    openssl::base64::encode_block(&hmac(&openssl::base64::decode_block(&key()).unwrap(), text.as_bytes()))
}

/// Now, as HTTP writes it.
fn httpdate() -> String {
    let output = Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Another wording of the signatures than the program's, which is under test.
#[derive(Debug)]
struct TestCrypto;

struct Collected(Option<Vec<u8>>, Vec<u8>);

impl object_store::client::HmacContext for Collected {
    fn update(&mut self, data: &[u8]) {
        self.1.extend_from_slice(data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.1 = hmac(self.0.as_ref().unwrap(), &self.1);
        Ok(&self.1)
    }
}

impl object_store::client::CryptoProvider for TestCrypto {
    fn digest(&self, _: object_store::client::DigestAlgorithm) -> object_store::Result<Box<dyn object_store::client::DigestContext>> {
        unimplemented!("uploads need none")
    }

    fn hmac(
        &self,
        _: object_store::client::DigestAlgorithm,
        secret: &[u8],
    ) -> object_store::Result<Box<dyn object_store::client::HmacContext>> {
        Ok(Box::new(Collected(Some(secret.to_owned()), Vec::new())))
    }

    fn sign(&self, _: object_store::client::SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn object_store::client::Signer>> {
        unimplemented!("uploads need none")
    }
}

/// What a rough way answers instead of the service, by request line; `None` lets a request through.
type Answers = Box<dyn FnMut(&str) -> Option<u16> + Send>;

/// A way to Azurite that answers some requests itself.
pub(crate) struct Rough {
    pub(crate) address: String,
    /// Request lines, in the order in which they came.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

impl Rough {
    pub(crate) fn new(to: &'static Azurite, answers: Answers) -> Rough {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (seen, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream, to, &log, &answers));
            }
        });
        Rough { address, seen }
    }
}

/// One request of one connection; it has no body, since nothing is uploaded this way.
fn serve(mut client: TcpStream, to: &Azurite, log: &Mutex<Vec<String>>, answers: &Mutex<Answers>) {
    let mut head = String::new();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let line = head.lines().next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(line.clone());
    let answer = answers.lock().unwrap()(&line);
    if let Some(status) = answer {
        let _ = write!(client, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    let mut service = TcpStream::connect(("127.0.0.1", to.port)).unwrap();
    let kept: Vec<&str> = head.trim_end().lines().filter(|l| !l.to_ascii_lowercase().starts_with("connection:")).collect();
    write!(service, "{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).unwrap();
    // The client may have seen enough.
    let _ = std::io::copy(&mut service, &mut client);
}
