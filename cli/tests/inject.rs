//! `pillion inject` as a person runs it: the files it writes, what it refuses, and what compose, Kubernetes' schemas, the
//! sidecar and the CA say of what it wrote. What becomes of each text is tested in `mesh::inject`.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use common::PILLION;

/// A folder with the files of `mesh/tests/inject` and of the example.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in ["shop", "labels", "deployment", "list"] {
        let name = format!("{name}.yaml");
        fs::copy(root.join("mesh/tests/inject").join(&name), folder.path().join(&name)).unwrap();
    }
    fs::copy(root.join("examples/inject/compose.yaml"), folder.path().join("example.yaml")).unwrap();
    folder
}

fn inject(folder: &Path, arguments: &str) -> Output {
    Command::new(PILLION).current_dir(folder).arg("inject").args(arguments.split(' ')).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it and expects that it goes well; what it told.
fn injected(folder: &Path, arguments: &str) -> String {
    let output = inject(folder, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    stderr(&output)
}

/// Every file below a folder, with its text.
fn tree(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(tree(&path)),
            false => files.push((path.clone(), fs::read_to_string(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn the_files_stand_beside_the_result_and_everybody_may_read_them() {
    let folder = folder();
    let told = injected(folder.path(), "-f shop.yaml -o out/mesh.yaml");
    assert!(told.contains("wrote 5 files to out/pillion"), "{told}");
    assert!(told.contains("paths in shop.yaml begin at its folder"), "{told}");
    for name in ["mesh.yaml", "pillion/ca/ca.yaml", "pillion/mesh/services.yaml", "pillion/sidecars/db.yaml"]
    {
        let mode = fs::metadata(folder.path().join("out").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
}

#[test]
fn a_file_may_be_injected_in_its_own_place_again_and_again() {
    let folder = folder();
    let told = injected(folder.path(), "-f labels.yaml -o labels.yaml");
    assert!(!told.contains("begin at its folder"), "{told}");
    let once = tree(folder.path());
    injected(folder.path(), "-f labels.yaml -o labels.yaml");
    assert_eq!(tree(folder.path()), once);
}

#[test]
fn stdin_and_stdout_do_and_the_folder_has_the_name_that_is_asked_for() {
    let folder = folder();
    let mut child = Command::new(PILLION)
        .current_dir(folder.path())
        .args(["inject", "-f", "-", "--out", "beside", "--trust-domain", "shop.example"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"services: {web: {image: web, expose: [80]}}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("- ./beside/mesh:/etc/pillion/mesh:ro"), "{text}");
    let ca = fs::read_to_string(folder.path().join("beside/ca/ca.yaml")).unwrap();
    assert!(ca.contains("spiffe://shop.example/ns/default/sa/web"), "{ca}");
}

#[test]
fn manifests_have_files_beside_them_only_where_they_are_asked_for() {
    let folder = folder();
    let before = tree(folder.path()).len();
    injected(folder.path(), "-f deployment.yaml -o mesh.yaml");
    assert_eq!(tree(folder.path()).len(), before + 1);
    injected(folder.path(), "-f deployment.yaml -o mesh.yaml --out for-the-mesh");
    assert_eq!(tree(folder.path()).len(), before + 3);
}

#[test]
fn policies_of_a_person_stay_and_settings_of_services_that_are_gone_go() {
    let folder = folder();
    injected(folder.path(), "-f shop.yaml -o mesh.yaml");
    let policy = folder.path().join("pillion/mesh/strict.yaml");
    fs::write(&policy, "# mine\n").unwrap();
    let own = folder.path().join("pillion/sidecars/own.yaml");
    fs::write(&own, "# mine\n").unwrap();
    injected(folder.path(), "-f example.yaml -o mesh.yaml");
    assert!(policy.exists() && own.exists());
    assert!(folder.path().join("pillion/sidecars/backend.yaml").exists());
    assert!(!folder.path().join("pillion/sidecars/cart.yaml").exists());
}

#[test]
fn a_file_that_somebody_else_wrote_is_not_overwritten_and_nothing_else_is_written() {
    let folder = folder();
    let services = folder.path().join("pillion/mesh/services.yaml");
    fs::create_dir_all(services.parent().unwrap()).unwrap();
    fs::write(&services, "# mine\n").unwrap();
    let before = tree(folder.path());
    let output = inject(folder.path(), "-f shop.yaml -o mesh.yaml");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("was not written by `pillion inject`; move it"), "{output:?}");
    assert_eq!(tree(folder.path()), before);
}

#[rstest]
#[case::missing("-f nowhere.yaml", 2, "nowhere.yaml: No such file")]
#[case::no_mesh_of_it("-f host.yaml", 2, "host.yaml: service a has `network_mode: host`")]
#[case::place("-f shop.yaml --out a:b", 2, "expected a folder whose name has no `:`")]
#[case::domain("-f shop.yaml --trust-domain Shop!", 2, "--trust-domain")]
#[case::unwritten("-f shop.yaml -o /proc/nowhere/mesh.yaml", 1, "name a place that can be written to")]
fn what_cannot_be_done_is_an_error_with_the_cure(
    #[case] arguments: &str,
    #[case] code: i32,
    #[case] expected: &str,
) {
    let folder = folder();
    fs::write(folder.path().join("host.yaml"), "services: {a: {network_mode: host}}\n").unwrap();
    let output = inject(folder.path(), arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(stderr(&output).contains(expected), "{output:?}");
}

/// What is written is what the programs take.
#[rstest]
fn the_sidecar_and_the_ca_take_their_settings(#[values("shop", "labels", "example")] name: &str) {
    let folder = folder();
    injected(folder.path(), &format!("-f {name}.yaml -o mesh.yaml"));
    let mesh = folder.path().join("pillion/mesh");
    let files = tree(&folder.path().join("pillion"));
    let settings = files.iter().filter(|(path, _)| !path.starts_with(&mesh));
    for (path, text) in settings {
        let program: &[&str] = if path.ends_with("ca.yaml") { &["ca", "serve"] } else { &["proxy"] };
        // In its container it is mounted elsewhere.
        fs::write(path, text.replace("/etc/pillion/mesh", &mesh.display().to_string())).unwrap();
        let mut command = Command::new(PILLION);
        command.args(program).args(["--check", "--config"]).arg(path);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}\n{text}\n{output:?}", path.display());
    }
    let analyzed = Command::new(PILLION).arg("analyze").arg(&mesh).output().unwrap();
    assert!(analyzed.status.success(), "{analyzed:?}");
}

#[rstest]
fn compose_takes_the_result(
    #[values("shop", "labels", "example")] name: &str,
    #[values("", " --remove")] or_the_way_back: &str,
) {
    let folder = folder();
    injected(folder.path(), &format!("-f {name}.yaml -o mesh.yaml"));
    injected(folder.path(), &format!("-f mesh.yaml -o mesh.yaml{or_the_way_back}"));
    let mut judge = Command::new("docker-compose");
    match judge.current_dir(folder.path()).args(["-f", "mesh.yaml", "config", "-q"]).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => common::skip(&format!("docker-compose: {error}")),
    }
}

/// By the schemas of Kubernetes itself: the Python package kubernetes-validate, in the folder that
/// `PILLION_TEST_KUBERNETES_VALIDATE` names.
#[rstest]
fn kubernetes_takes_the_result(
    #[values("deployment", "list")] name: &str,
    #[values("", " --plain-sidecar")] form: &str,
) {
    let folder = folder();
    injected(folder.path(), &format!("-f {name}.yaml -o mesh.yaml{form}"));
    let text = fs::read_to_string(folder.path().join("mesh.yaml")).unwrap();
    assert_eq!(manifests(&text).len(), 4);
    assert_is_kubernetes(&text);
}

/// The CA of the example, and its settings.
#[test]
fn kubernetes_and_the_ca_take_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kubernetes");
    for name in ["ca.yaml", "shop.yaml"] {
        assert_is_kubernetes(&fs::read_to_string(example.join(name)).unwrap());
    }
    let manifests = manifests(&fs::read_to_string(example.join("ca.yaml")).unwrap());
    let settings = manifests.iter().find_map(|manifest| manifest["data"]["ca.yaml"].as_str()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), settings).unwrap();
    let output =
        Command::new(PILLION).args(["ca", "serve", "--check", "--config"]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn assert_is_kubernetes(text: &str) {
    let Some(validator) = env::var_os("PILLION_TEST_KUBERNETES_VALIDATE") else {
        return common::skip("PILLION_TEST_KUBERNETES_VALIDATE names no folder with kubernetes-validate");
    };
    for manifest in manifests(text) {
        let mut file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
        write!(file, "{manifest}").unwrap();
        let mut judge = Command::new("python3");
        judge.args(["-m", "kubernetes_validate", "--strict"]).arg(file.path()).env("PYTHONPATH", &validator);
        let output = judge.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains("passed for resource"), "{manifest:#}\n{output:?}");
    }
}

/// The manifests of a file, those of a List one by one: there is no schema of a List.
fn manifests(text: &str) -> Vec<Value> {
    let documents = text
        .split("\n---\n")
        .map(|document| pillion_mesh::yaml::read::<Value>("mesh.yaml", document).unwrap());
    documents
        .flat_map(|document| match &document["items"] {
            Value::Array(items) => items.clone(),
            _ => vec![document],
        })
        .collect()
}
