//! A headless Chromium, and as much of the DevTools protocol as the scenarios need.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use crate::server::PATIENCE;

/// Names under which distributions install it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Between two looks at a page. There is no event for "the page shows this".
const LOOK: Duration = Duration::from_millis(20);
/// How much of a script that threw is repeated, in characters.
const EXPRESSION_TOLD_MAX: usize = 300;
/// How long one answer of the browser is waited for before the clock is looked at again.
const READ: Duration = Duration::from_millis(100);

/// A running browser.
pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    _profile: TempDir,
    last_id: u64,
    /// What pages complained about since the last [`Browser::complaints`].
    complaints: Vec<String>,
}

/// A tab, by its session.
#[derive(Clone, Debug)]
pub struct Tab {
    session: String,
    target: String,
}

/// The browser's executable, if one is installed.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates =
        std::env::split_paths(&path).flat_map(|directory| NAMES.map(|name| directory.join(name)));
    candidates.find(|candidate| candidate.is_file())
}

impl Browser {
    /// Starts it on a profile of its own.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn start(executable: &Path) -> Result<Browser, String> {
        let profile = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut child = Command::new(executable)
            // `--no-sandbox`: CI runs as root, where Chromium refuses to start otherwise. It sees pages of ours only.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            // All tabs are alive at once here, as on two people's desks.
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"])
            .args(["--disable-backgrounding-occluded-windows", "--hide-scrollbars"])
            // A mouse, where the machine has none: fine pointers that hover.
            .arg("--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--remote-debugging-port=0", "about:blank"])
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", executable.display()))?;
        let connected = connect(&profile.path().join("DevToolsActivePort"));
        match connected {
            Ok(socket) => {
                Ok(Browser { child, socket, _profile: profile, last_id: 0, complaints: Vec::new() })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Opens an address in a window of its own, with a screen of a desktop's size.
    ///
    /// # Errors
    /// The browser says why not.
    pub fn open(&mut self, address: &str) -> Result<Tab, String> {
        let created =
            self.call(None, "Target.createTarget", &json!({"url": "about:blank", "newWindow": true}))?;
        let target = text(&created["targetId"]);
        let attached =
            self.call(None, "Target.attachToTarget", &json!({"targetId": target, "flatten": true}))?;
        let tab = Tab { session: text(&attached["sessionId"]), target };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            self.call(Some(&tab), domain, &json!({}))?;
        }
        // Each is the tab that somebody sits at: focused and visible.
        self.call(Some(&tab), "Emulation.setFocusEmulationEnabled", &json!({"enabled": true}))?;
        self.call(Some(&tab), "Emulation.setLocaleOverride", &json!({"locale": "en-GB"}))?;
        self.screen(&tab, 1280, 800, false)?;
        self.call(Some(&tab), "Page.navigate", &json!({"url": address}))?;
        self.until(&tab, "document.readyState === 'complete' && location.href !== 'about:blank'")?;
        Ok(tab)
    }

    /// Closes a tab.
    ///
    /// # Errors
    /// The browser says why not.
    pub fn close(&mut self, tab: &Tab) -> Result<(), String> {
        self.call(None, "Target.closeTarget", &json!({"targetId": tab.target})).map(drop)
    }

    /// The size of a tab's screen in CSS pixels; `is_phone`: fingers instead of a mouse.
    ///
    /// # Errors
    /// The browser says why not.
    pub fn screen(&mut self, tab: &Tab, width: u32, height: u32, is_phone: bool) -> Result<(), String> {
        let factor = if is_phone { 2 } else { 1 };
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": factor, "mobile": is_phone});
        self.call(Some(tab), "Emulation.setDeviceMetricsOverride", &metrics)?;
        self.call(Some(tab), "Emulation.setTouchEmulationEnabled", &json!({"enabled": is_phone})).map(drop)
    }

    /// Whether the system asks for dark colours.
    ///
    /// # Errors
    /// The browser says why not.
    pub fn darken(&mut self, tab: &Tab, is_dark: bool) -> Result<(), String> {
        let value = if is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call(Some(tab), "Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Evaluates JavaScript, waits for it when it is a promise, and returns its value.
    ///
    /// # Errors
    /// It throws, or has no JSON value.
    pub fn evaluate(&mut self, tab: &Tab, expression: &str) -> Result<Value, String> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call(Some(tab), "Runtime.evaluate", &asked)?;
        let thrown = &answer["exceptionDetails"];
        if thrown.is_null() {
            return Ok(answer["result"]["value"].clone());
        }
        let told = thrown["exception"]["description"].as_str().or(thrown["text"].as_str());
        let expression: String = expression.chars().take(EXPRESSION_TOLD_MAX).collect();
        Err(format!("{expression}: {}", told.unwrap_or("it threw")))
    }

    /// Waits until JavaScript has a true value, and returns it.
    ///
    /// # Errors
    /// It does not become true in time, or throws.
    pub fn until(&mut self, tab: &Tab, expression: &str) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        let truth = format!("Boolean({expression})");
        while Instant::now() < deadline {
            match self.evaluate(tab, &truth) {
                Ok(value) if value == true => return Ok(value),
                Ok(_) => {}
                // The page is being left for another.
                Err(error) if error.contains("context") || error.contains("navigated") => {}
                Err(error) => return Err(error),
            }
            // Between two looks of a bounded wait: what a page shows has no event to wait for here.
            std::thread::sleep(LOOK);
        }
        let shown = self.evaluate(tab, "document.body.innerText").unwrap_or_default();
        let shown: String = shown.as_str().unwrap_or_default().chars().take(1_500).collect();
        Err(format!(
            "it never became true that {expression}; complaints: {:?}; on the screen:\n{shown}",
            self.complaints
        ))
    }

    /// Presses and releases the main button in the middle of an element.
    ///
    /// # Errors
    /// There is no such element, or it is not to be seen.
    pub fn click(&mut self, tab: &Tab, selector: &str) -> Result<(), String> {
        self.click_on(tab, &format!("document.querySelector({})", Value::from(selector)))
    }

    /// As [`Browser::click`], for an element that JavaScript finds.
    ///
    /// # Errors
    /// There is no such element, or something else lies over it.
    pub fn click_on(&mut self, tab: &Tab, expression: &str) -> Result<(), String> {
        let find = |or_else: &str| {
            format!(
                "(() => {{ const it = {expression}; it.scrollIntoView({{block: 'nearest'}});\
                 const box = it.getBoundingClientRect(); const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];\
                 const hit = document.elementFromPoint(x, y);\
                 return box.width && (hit === it || it.contains(hit)) ? {{x, y}} : {or_else}; }})()"
            )
        };
        // What moves is clicked on when it stands still; what is covered for good is told of right behind this.
        let _ = self.until(tab, &find("undefined"));
        let place = self.evaluate(tab, &find("`${hit?.outerHTML.slice(0, 200)} at ${x}, ${y}`"))?;
        if let Some(instead) = place.as_str() {
            return Err(format!("nobody can click on {expression}: there is {instead}"));
        }
        for (kind, buttons) in [("mousePressed", 1), ("mouseReleased", 0)] {
            let event = json!({"type": kind, "x": place["x"], "y": place["y"], "button": "left",
                "buttons": buttons, "clickCount": 1});
            self.call(Some(tab), "Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Focuses a field, and writes into it.
    ///
    /// # Errors
    /// There is no such field.
    pub fn write(&mut self, tab: &Tab, selector: &str, text: &str) -> Result<(), String> {
        self.evaluate(tab, &format!("document.querySelector({}).focus()", Value::from(selector)))?;
        self.call(Some(tab), "Input.insertText", &json!({"text": text})).map(drop)
    }

    /// Presses Enter where the focus is.
    ///
    /// # Errors
    /// The browser says why not.
    pub fn press_enter(&mut self, tab: &Tab) -> Result<(), String> {
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13,
                "text": if kind == "keyDown" { "\r" } else { "" }});
            self.call(Some(tab), "Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// What a tab shows, as a PNG in base64.
    ///
    /// # Errors
    /// It cannot be taken.
    pub fn picture(&mut self, tab: &Tab) -> Result<String, String> {
        // Two frames: what the last change moved is drawn.
        self.evaluate(
            tab,
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)",
        )?;
        let taken = self.call(Some(tab), "Page.captureScreenshot", &json!({"format": "png"}))?;
        Ok(text(&taken["data"]))
    }

    /// Writes what a tab shows to a PNG file.
    ///
    /// # Errors
    /// It cannot be taken or written.
    pub fn screenshot(&mut self, tab: &Tab, file: &Path) -> Result<(), String> {
        let picture = self.picture(tab)?;
        let bytes = base64::prelude::BASE64_STANDARD.decode(picture);
        let bytes = bytes.map_err(|error| format!("no screenshot: {error}"))?;
        let directory = file.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(file, bytes));
        written.map_err(|error| format!("{}: {error}", file.display()))
    }

    /// What pages threw or logged as errors since this was last asked.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// One command, and its result.
    fn call(&mut self, tab: Option<&Tab>, method: &str, parameters: &Value) -> Result<Value, String> {
        self.last_id += 1;
        let id = self.last_id;
        let mut frame = json!({"id": id, "method": method, "params": parameters});
        if let Some(tab) = tab {
            frame["sessionId"] = tab.session.clone().into();
        }
        self.socket.send(Message::text(frame.to_string())).map_err(|error| format!("{method}: {error}"))?;
        let deadline = Instant::now() + 2 * PATIENCE;
        while Instant::now() < deadline {
            let Some(answer) = self.read().map_err(|error| format!("{method}: {error}"))? else { continue };
            if answer["id"] == id {
                return match answer.get("error") {
                    Some(error) => Err(format!("{method}: {error}")),
                    None => Ok(answer["result"].clone()),
                };
            }
            self.note(&answer);
        }
        Err(format!("{method}: the browser does not answer"))
    }

    fn read(&mut self) -> Result<Option<Value>, String> {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                serde_json::from_str(&text).map(Some).map_err(|error| error.to_string())
            }
            Ok(Message::Close(_)) => Err("the browser is gone".to_owned()),
            Ok(_) => Ok(None),
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Keeps what a page complains about. That a connection failed is told by the browser itself, and wanted here.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                let details = &parameters["exceptionDetails"];
                let told = details["exception"]["description"].as_str().or(details["text"].as_str());
                self.complaints.push(told.unwrap_or("an exception").to_owned());
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                self.complaints.push(parameters["args"].to_string());
            }
            Some("Log.entryAdded")
                if parameters["entry"]["level"] == "error"
                    && !matches!(parameters["entry"]["source"].as_str(), Some("network" | "javascript")) =>
            {
                self.complaints.push(text(&parameters["entry"]["text"]));
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to close, it ends its helpers too; killed, it would leave them to notice by themselves.
        let _ = self.call(None, "Browser.close", &json!({}));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            // Between two looks of a bounded wait: a child's end has no time-out of its own in std.
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects as soon as the browser has written where.
fn connect(port_file: &Path) -> Result<WebSocket<TcpStream>, String> {
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        match std::fs::read_to_string(port_file) {
            // Two lines, port and path; the file is not written at once.
            Ok(text) if text.lines().count() == 2 => break text,
            _ if Instant::now() >= deadline => {
                return Err("the browser does not say where it listens".to_owned());
            }
            _ => std::thread::sleep(LOOK),
        }
    };
    let mut lines = told.lines();
    let (port, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    // Screenshots come as one text.
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    let address = format!("ws://127.0.0.1:{port}{path}");
    let (socket, _) = tungstenite::client::client_with_config(address, stream, Some(config))
        .map_err(|error| error.to_string())?;
    socket.get_ref().set_read_timeout(Some(READ)).map_err(|error| error.to_string())?;
    Ok(socket)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
