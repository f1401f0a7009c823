//! When programs are told, and of what.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tartan_crds::ExtensionParameters;
use tartan_lab::eventually;
use tartan_node_agent::extension::{Environment, Wanted};

use super::{
    cluster::PATIENCE,
    scene::{Scene, peer, program, start, wanted, words},
};

#[test]
fn programs_are_told_once_of_what_is_new_changed_and_gone_also_across_a_restart() {
    let mut scene = Scene::set();
    // Read as text and never as words of a shell.
    let hostile = "$(touch /tmp/x); `id` \" --help";
    scene.ask(wanted(&[peer(2, "two", hostile), peer(3, "three", ""), peer(4, "four", "")]));
    let four = "add 1 word four 10.244.4.0/24 192.0.2.4 ";
    let (two, three) = (
        format!("add 1 word two 10.244.2.0/24 192.0.2.2 {hostile}"),
        "add 1 word three 10.244.3.0/24 192.0.2.3 ",
    );
    scene.wait_for_log(&[four, three, &two]);
    eventually("the data to be known", PATIENCE, || {
        scene.report.borrow().data.as_deref() == Some("key-of-here")
    })
    .unwrap();
    // Another process with the same file: node three has changed, node two is gone, node four is as it was.
    (scene.wanted, scene.report) =
        start(&scene.runtime, scene.folder.path(), Some(scene.folder.path().join("commands")));
    scene.ask(wanted(&[peer(3, "three", "new"), peer(4, "four", "")]));
    scene.wait_for_log(&[
        four,
        three,
        "add 1 word three 10.244.3.0/24 192.0.2.3 new",
        &two,
        "remove 1 word three 10.244.3.0/24 192.0.2.3 ",
        &two.replace("add", "remove"),
    ]);
    let before = scene.log();
    // The node gets another backend.
    scene.ask(Wanted { own: None, ..wanted(&[]) });
    eventually("the last to be taken back", PATIENCE, || scene.log().len() == before.len() + 2).unwrap();
    assert_eq!(scene.report.borrow().failed, [] as [String; 0]);
}

#[test]
fn a_program_that_is_named_later_is_told_of_what_was_there_before() {
    let scene = Scene::set();
    let all = [peer(2, "two", ""), peer(3, "three", "")];
    let asked = |words: Vec<String>| {
        let wanted = wanted(&all);
        Wanted { commands: ExtensionParameters { subnet_add: words, ..wanted.commands }, ..wanted }
    };
    let told = || scene.report.borrow().data.is_some();
    scene.ask(asked(vec![]));
    eventually("a pass", PATIENCE, told).unwrap();
    let line = |what: &str, word: &str, number: u8, node: &str| {
        format!("{what} 1 {word} {node} 10.244.{number}.0/24 192.0.2.{number} ")
    };
    scene.ask(asked(words("add early")));
    let mut expected = vec![line("add", "early", 3, "three"), line("add", "early", 2, "two")];
    let wait =
        |expected: &[String]| scene.wait_for_log(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    wait(&expected);
    scene.ask(asked(words("add late")));
    expected.extend([line("add", "late", 3, "three"), line("add", "late", 2, "two")]);
    wait(&expected);
    scene.ask(Wanted { peers: all[..1].iter().cloned().collect(), ..asked(words("add late")) });
    expected.push(line("remove", "word", 3, "three"));
    wait(&expected);
    // What was told is taken back also where no program adds any more.
    scene.ask(Wanted { peers: [].into(), ..asked(vec![]) });
    expected.push(line("remove", "word", 2, "two"));
    expected.sort();
    wait(&expected);
}

/// Nor does the agent wake up for it.
#[test]
fn what_failed_and_is_asked_for_no_more_is_no_failure() {
    let scene = Scene::set();
    let all = [peer(2, "two", "")];
    let asked = |pre: &str, add: &str| {
        let wanted = wanted(&all);
        let commands = ExtensionParameters {
            pre_startup: if pre.is_empty() { vec![] } else { words(pre) },
            subnet_add: words(add),
            ..wanted.commands
        };
        Wanted { commands, ..wanted }
    };
    let is_well = || scene.report.borrow().failed.is_empty();
    scene.ask(asked("pre", "add early"));
    let early = "add 1 early two 10.244.2.0/24 192.0.2.2 ";
    scene.wait_for_log(&[early]);
    scene.ask(asked("pre", "nothing"));
    scene.wait_for_failure("nothing");
    scene.ask(asked("pre", "add early"));
    eventually("the words of before to do", PATIENCE, is_well).unwrap();
    scene.ask(asked("nowhere", "add early"));
    scene.wait_for_failure("nowhere");
    scene.ask(asked("", "add early"));
    eventually("no program to do", PATIENCE, is_well).unwrap();
    // It may have undone something.
    scene.wait_for_log(&[early, early]);
}

/// They may make devices anew, so what was told of peers may be undone; an agent that starts anew leaves all as it is.
#[test]
fn programs_of_the_start_run_once_for_the_same_facts_and_all_is_told_after_them() {
    let mut scene = Scene::set();
    let starts = |scene: &Scene| fs::read_to_string(scene.folder.path().join("starts")).unwrap_or_default();
    let named = |name: &str, post: &str| {
        let own = Environment::from([("NODE".to_owned(), name.to_owned())]);
        let wanted = wanted(&[peer(2, "two", "")]);
        let commands = ExtensionParameters { post_startup: words(post), ..wanted.commands };
        Wanted { commands, own: Some(own), ..wanted }
    };
    let add = "add 1 word two 10.244.2.0/24 192.0.2.2 ";
    scene.ask(named("here", "pre"));
    scene.wait_for_log(&[add]);
    (scene.wanted, scene.report) =
        start(&scene.runtime, scene.folder.path(), Some(scene.folder.path().join("commands")));
    let mut after = named("here", "pre");
    after.peers.extend([peer(3, "three", "")]);
    scene.ask(after);
    let three = "add 1 word three 10.244.3.0/24 192.0.2.3 ";
    scene.wait_for_log(&[three, add]);
    assert_eq!(starts(&scene), "here\nhere\n");
    assert_eq!(scene.report.borrow().data.as_deref(), Some("key-of-here"));
    // One that fails is tried again without the one before it, and nobody is told meanwhile.
    scene.ask(named("there", "bad"));
    scene.wait_for_failure("postStartup");
    assert_eq!(starts(&scene), "here\nhere\nthere\n");
    assert_eq!(scene.log(), [three, add]);
    scene.ask(named("there", "pre"));
    scene.wait_for_log(&[three, add, add, "remove 1 word three 10.244.3.0/24 192.0.2.3 "]);
    assert_eq!(scene.report.borrow().failed, [] as [String; 0]);
}

#[test]
fn what_may_have_been_taken_back_in_part_is_told_again() {
    let scene = Scene::set();
    let all = [peer(2, "sticky", "")];
    let add = "add 1 word sticky 10.244.2.0/24 192.0.2.2 ";
    scene.ask(wanted(&all));
    scene.wait_for_log(&[add]);
    scene.ask(wanted(&[]));
    scene.wait_for_failure("subnetRemove 10.244.2.0/24");
    scene.ask(wanted(&all));
    scene.wait_for_log(&[add, add]);
    assert_eq!(scene.report.borrow().failed, [] as [String; 0]);
}

#[test]
fn one_that_fails_is_named_and_tried_again_and_keeps_back_no_other() {
    let scene = Scene::set();
    scene.ask(wanted(&[peer(2, "stubborn", ""), peer(3, "three", "")]));
    let three = "add 1 word three 10.244.3.0/24 192.0.2.3 ";
    scene.wait_for_log(&[three]);
    scene.wait_for_failure("backends.extension.subnetAdd 10.244.2.0/24: it ended with exit status: 7: no");
    fs::write(scene.folder.path().join("calm"), "").unwrap();
    scene.wait_for_log(&["add 1 word stubborn 10.244.2.0/24 192.0.2.2 ", three]);
    eventually("no failure", PATIENCE, || scene.report.borrow().failed.is_empty()).unwrap();
}

#[test]
fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
    let scene = Scene::set();
    let directory = scene.folder.path().join("commands");
    program(&directory, "slow", "sleep 4242.4242 & sleep 4242.4242");
    program(&directory, "long", "head -c 5000 /dev/zero | tr '\\0' x");
    let mut slow = wanted(&[]);
    (slow.commands.pre_startup, slow.commands.timeout_seconds) = (words("slow"), 1);
    scene.ask(slow);
    scene.wait_for_failure("backends.extension.preStartup: it did not end within 1 s, and was killed");
    let left = || {
        let found = std::process::Command::new("pgrep").args(["-f", "^sleep 4242.4242"]).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    eventually("all of it to end", PATIENCE, || {
        // The next try begins within seconds, so this is asked of what the first left.
        left().lines().count() <= 2
    })
    .unwrap();
    let mut long = wanted(&[]);
    long.commands.pre_startup = words("long");
    scene.ask(long);
    scene.wait_for_failure("it printed more than 1024 bytes");
    eventually("all of it to end", PATIENCE, || left().is_empty()).unwrap();
}

#[test]
fn what_the_node_does_not_offer_is_not_run() {
    let scene = Scene::set();
    let directory = scene.folder.path().join("commands");
    program(&directory, "loose", "exit 0");
    fs::set_permissions(directory.join("loose"), fs::Permissions::from_mode(0o777)).unwrap();
    for (name, answer) in [
        ("../commands/pre", "is not the name of a program"),
        ("/bin/sh", "is not the name of a program"),
        ("missing", "cannot look at"),
        ("loose", "nobody else may write to"),
    ] {
        let mut asked = wanted(&[]);
        asked.commands.pre_startup = words(name);
        scene.ask(asked);
        scene.wait_for_failure(answer);
    }
    let (off, report) = start(&scene.runtime, &scene.folder.path().join("off"), None);
    off.send(Some(wanted(&[peer(2, "two", "")]))).unwrap();
    eventually("an answer", PATIENCE, || {
        report.borrow().failed.join("").contains("--extension-commands-from")
    })
    .unwrap();
    assert_eq!(scene.log(), [] as [String; 0]);
}
