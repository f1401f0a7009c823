//! Every test program is in one step, and every test in one of the usual run's or of the full one's.

use super::*;

/// The steps as command lines.
fn lines(options: &Options) -> Vec<String> {
    let line = |work| match work {
        Work::Cargo(arguments) => arguments.join(" "),
        other => format!("{other:?}"),
    };
    steps(options, &programs().unwrap()).into_iter().map(|(_, work)| line(work)).collect()
}

#[test]
fn without_clusters_everything_else_still_runs() {
    let all = lines(&Options::default());
    let some = lines(&Options { no_cluster: true, ..Options::default() });
    assert_eq!(all[..all.len() - 2], some, "only the last two steps are left out");
    let all: Vec<String> = all.iter().map(|line| format!("{line} ")).collect();
    for Program { package, name } in programs().unwrap() {
        let word = format!("--test {name} ");
        let steps: Vec<usize> = (0..all.len()).filter(|step| all[*step].contains(&word)).collect();
        assert_eq!(steps.len(), 1, "{name} of {package} runs in one step");
        assert_eq!(steps[0] == all.len() - 1, WHOLE_CLUSTER.contains(&&*name), "{name}");
    }
}

#[test]
fn no_two_test_programs_have_one_name() {
    let mut names: Vec<String> = programs().unwrap().into_iter().map(|program| program.name).collect();
    names.sort();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn packages_without_test_programs_are_left_out_and_no_others() {
    let members = std::fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
    let members = members.lines().find(|line| line.starts_with("members")).unwrap().to_owned();
    for member in members.split('"').skip(1).step_by(2) {
        let has_tests = workspace::root().join(member).join("tests").exists();
        assert_eq!(has_tests, PACKAGES.contains(&member), "{member}");
    }
}

#[test]
fn the_full_run_has_all_steps_and_those_that_take_long() {
    let all = lines(&Options::default());
    let mut full = lines(&Options { full: true, ..Options::default() });
    for step in [
        "--test vm --no-fail-fast -- --ignored",
        "--test-threads=1 hung::",
        "machine:: -- --ignored",
        "--test chart_running --no-fail-fast -- --ignored",
        "Model",
        "Mutants",
    ] {
        let place = full.iter().position(|line| line.contains(step)).expect(step);
        full.remove(place);
    }
    assert_eq!(all, full);
}

#[test]
fn the_quick_run_has_the_pure_tests_and_the_generated_files() {
    let quick = lines(&Options { quick: true, ..Options::default() }).join("\n");
    for word in ["--test generated", "--test definitions", "--test pair_table", "--test rules"] {
        assert!(quick.contains(word), "{word} is missing in\n{quick}");
    }
    assert!(!quick.contains("Prerequisites") && !quick.contains("chart_cluster"), "{quick}");
}

#[test]
fn the_lists_name_tests_that_exist() {
    let root = workspace::root();
    let programs = programs().unwrap();
    let is_known = |name: &&str| programs.iter().any(|one| one.name == *name);
    assert!(PURE.iter().chain(&IN_MACHINES).chain(&WAITING).all(is_known), "{programs:?}");
    let exists = |name: &str| programs.iter().any(|one| one.package == "xtask" && one.name == name);
    assert!(WHOLE_CLUSTER.iter().all(|name| exists(name)), "{programs:?}");
    let tables = std::fs::read_to_string(root.join("datapath/tests/desired_tables.rs")).unwrap();
    assert!(tables.contains(&format!("fn {NOT_PURE}()")), "the test that asks the kernel has another name");
}

/// A test that the usual run leaves out, and that no step of the full one would run, is one that nobody runs.
#[test]
fn what_is_ignored_for_the_full_run_is_in_one_of_its_steps() {
    let transitions =
        LONG.map(|module| format!("node-agent/tests/transitions/{}.rs", &module[..module.len() - 2]));
    let mut known: Vec<String> = transitions.into();
    // The last is run by what machine/page.rs runs.
    for file in ["machine.rs", "machine/page.rs", "matrix.rs"] {
        known.push(format!("node-agent/tests/transitions/{file}"));
    }
    let others =
        ["datapath/tests/vm.rs", "xtask/tests/chart_families.rs", "xtask/tests/chart_running/main.rs"];
    known.extend(others.map(str::to_owned));
    let root = workspace::root();
    let reason = ["#[ignore = ", "cargo xtask test --full"];
    let mut found = vec![];
    let mut folders: Vec<_> = PACKAGES.iter().map(|package| root.join(package).join("tests")).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.lines().any(|line| reason.iter().all(|part| line.contains(part))) {
                    found.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
    }
    known.sort();
    found.sort();
    assert_eq!(found, known);
}
