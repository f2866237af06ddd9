//! The page to look at, and the client module it uses: the files of `web/`, inside the binary.
//!
//! Pure: whoever serves them decides when (development mode only) and knows the users. Nothing here is secret but what
//! [`index`] is given: tokens of ready users, so that page is never to be cached or served to the public.

/// Where the users go in `index.html`.
const USERS: &str = "{{users}}";

const INDEX: &str = include_str!("../../web/index.html");

/// The file at a path, without query: its content type and its bytes; `None`: there is none. `/` is `index.html`
/// without users; [`index`] has them.
#[must_use]
pub fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    Some(match path {
        "/" => ("text/html; charset=utf-8", INDEX.as_bytes()),
        "/carillon.js" => (SCRIPT, include_bytes!("../../web/carillon.js").as_slice()),
        // TypeScript has no media type of its own, and a browser never asks for types.
        "/carillon.d.ts" => {
            ("text/plain; charset=utf-8", include_bytes!("../../web/carillon.d.ts").as_slice())
        }
        "/page.js" => (SCRIPT, include_bytes!("../../web/page.js").as_slice()),
        "/page.css" => ("text/css; charset=utf-8", include_bytes!("../../web/page.css").as_slice()),
        _ => return None,
    })
}

/// `index.html` with its ready users: a JSON array of `{"name","user_id","token"}`. It stands inside a `script`
/// element, where only `<` could end it (HTML standard, section 4.12.1.3), so each becomes its escape: in JSON, `<` is
/// inside strings only.
#[must_use]
pub fn index(users_json: &str) -> Vec<u8> {
    INDEX.replacen(USERS, &users_json.replace('<', "\\u003c"), 1).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_asks_for_is_there() {
        let (kind, index) = file("/").expect("the page");
        assert!(kind.starts_with("text/html"));
        let index = std::str::from_utf8(index).expect("UTF-8");
        let mut asked = 0;
        for attribute in ["src=\"", "href=\""] {
            for part in index.split(attribute).skip(1) {
                let address = part.split('"').next().unwrap_or_default();
                // Drawn here, or a drawing of this very document.
                if address.starts_with("data:") || address.starts_with('#') {
                    continue;
                }
                assert!(file(&format!("/{address}")).is_some(), "{address}");
                asked += 1;
            }
        }
        assert_eq!(asked, 2, "a script and a style sheet");
        assert!(file("/carillon.js").is_some() && file("/carillon.d.ts").is_some());
        assert!(file("/index.html").is_none() && file("//").is_none() && file("/../Cargo.toml").is_none());
    }

    #[test]
    fn users_cannot_leave_their_element() {
        let hostile = r#"[{"name":"</script><script>alert(1)</script>","user_id":"1","token":"t"}]"#;
        let page = String::from_utf8(index(hostile)).expect("UTF-8");
        assert!(!page.contains(USERS) && !page.contains("alert(1)</script>"));
        let json = page.split("id=\"users\">").nth(1).and_then(|rest| rest.split("</script>").next());
        let users: serde_json::Value = serde_json::from_str(json.expect("the element")).expect("JSON");
        assert_eq!(users[0]["name"], "</script><script>alert(1)</script>");
    }

    #[test]
    fn no_inline_script() {
        assert_eq!(INDEX.matches("<script").count(), 2, "the JSON block and the module");
        assert!(INDEX.contains("<script type=\"module\" src=\"page.js\"></script>"));
        let handlers = INDEX.split(" on").skip(1).filter(|rest| {
            rest.split_once("=\"").is_some_and(|(name, _)| name.bytes().all(|byte| byte.is_ascii_lowercase()))
        });
        assert_eq!(handlers.count(), 0, "no handlers in markup");
        assert!(!INDEX.contains(" style="));
    }
}
