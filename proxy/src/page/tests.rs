//! That the files of the page keep what the content policy asks of them, and that none is missing.

use std::fs;
use std::path::Path;

use super::*;

/// What would bring in text as code or markup, or ask another server.
const FORBIDDEN: [&str; 15] = [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "eval(",
    "new Function",
    "DOMParser",
    "createContextualFragment",
    "srcdoc",
    "javascript:",
    "https://",
    "style=",
    "onclick=",
    "@import",
    "url(",
];

#[test]
fn no_file_brings_in_code_from_text_or_asks_another_server() {
    for File { path, text, .. } in FILES {
        for forbidden in FORBIDDEN {
            assert!(!text.contains(forbidden), "{path} has {forbidden}");
        }
        // The name of SVG is no place to go to.
        let text = text.replace("http://www.w3.org/2000/svg", "").replace("'http://'", "");
        assert!(!text.contains("http://") && !text.contains("\"//"), "{path} names another host");
    }
}

#[test]
fn the_page_has_no_inline_script_and_no_inline_style() {
    let text = named_file("/page/index.html");
    for tag in ["<script", "<style"] {
        let inline = text.match_indices(tag).filter(|(at, _)| {
            let tag = text.get(*at..).and_then(|rest| rest.split('>').next()).unwrap();
            !tag.contains("src=")
        });
        assert_eq!(inline.count(), 0, "{tag}");
    }
}

#[test]
fn every_file_of_the_folder_is_served_and_every_file_that_is_asked_for_is_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page/assets");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| format!("/page/{}", file.unwrap().file_name().into_string().unwrap()))
        .collect();
    files.sort();
    let mut served: Vec<_> = FILES.iter().map(|file| file.path.to_owned()).collect();
    served.sort();
    assert_eq!(files, served);
    for File { path, text, .. } in FILES {
        for name in text.split(['\'', '"']).filter_map(|text| text.strip_prefix("./")) {
            assert!(served.contains(&format!("/page/{name}")), "{path} imports {name}");
        }
        for name in text.split('"').filter(|text| text.starts_with("page/")) {
            assert!(served.contains(&format!("/{name}")), "{path} names {name}");
        }
    }
}

fn named_file(path: &str) -> &'static str {
    FILES.iter().find(|file| file.path == path).unwrap().text
}
