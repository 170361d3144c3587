//! `cargo xtask demo`: one network over three hosts, on this machine, told step by step.
//!
//! ```text
//!   host a                 host b                  host c
//!   container web    ───   container middle  ───   containers db, cache
//!      192.0.2.1 ─ cable ─ 192.0.2.2
//!                          198.51.100.1 ─ cable ─ 198.51.100.2
//! ```

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use crate::setup;
use crate::stage::{Outcome, Stage, finish_started, run, start, wait_for};
use crate::stopwatch::Stopwatch;
use crate::traffic;

const STAGE: &str = "weftdemo";
const PASSWORD: &str = "a-long-random-passphrase-for-the-demo";
const LIMIT: Duration = Duration::from_secs(40);
const MEGABYTES: &str = "100";

/// Host, container, address.
const CONTAINERS: [(&str, &str, &str); 4] = [
    ("a", "web", "10.32.0.1/24"),
    ("b", "middle", "10.32.0.2/24"),
    ("c", "db", "10.32.0.3/24"),
    ("c", "cache", "10.32.0.4/24"),
];

/// Runs the demonstration.
pub(crate) fn run_demo(keep: bool) -> ExitCode {
    match prepare().and_then(|weft| show(&weft, keep)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe demonstration failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Removes what `demo --keep` left.
pub(crate) fn remove() -> ExitCode {
    match Stage::new(STAGE) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Outcome<PathBuf> {
    let missing = setup::ensure(setup::FOR_DEMO);
    if !missing.is_empty() {
        return Err(format!("please install: {}", missing.join(" ")));
    }
    build_release()
}

/// Builds the release binary and says where it is.
pub(crate) fn build_release() -> Outcome<PathBuf> {
    println!("building weft");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = crate::tidy::workspace_root();
    let arguments = [
        "build",
        "--release",
        "--package",
        "weft",
        "--message-format=json",
    ];
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .arg("--quiet")
        .current_dir(root)
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("weft does not build".to_owned());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next())
        .map(PathBuf::from)
        .find(|path| path.file_name().is_some_and(|name| name == "weft"))
        .ok_or_else(|| "cargo built no weft".to_owned())
}

fn say(words: &str) {
    println!("\n{words}");
}

fn show_output(output: &str) {
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        println!("    {line}");
    }
}

fn show(weft: &Path, keep: bool) -> Outcome<()> {
    let watch = Stopwatch::start();
    let mut stage = Stage::new(STAGE)?;
    if keep {
        stage.keep();
    }
    lay_cables(&stage)?;
    let record = Record::start(&stage)?;
    start_daemons(&stage, weft)?;
    attach(&stage, weft)?;
    tell_status(&stage, weft)?;
    move_data(&stage)?;
    cut_and_heal(&stage)?;
    tell_record(record)?;
    if keep {
        tell_how_to_enter(&stage, weft);
    } else {
        for host in ["a", "b", "c"] {
            run(&mut stage.weft(host, weft, &["reset"]))?;
        }
        drop(stage);
        say("All daemons are stopped and everything made for this has been removed.");
    }
    say(&format!("Everything worked, in {watch}."));
    Ok(())
}

fn lay_cables(stage: &Stage) -> Outcome<()> {
    say(
        "Three hosts, a, b and c, each a network namespace of this machine. Cables go from a to b and\n\
         from b to c. There is none from a to c, and b does not forward packets between its cables.",
    );
    ["a", "b", "c"]
        .into_iter()
        .try_for_each(|host| stage.add(host))?;
    stage.cable(("a", "eth0", "192.0.2.1/24"), ("b", "eth0", "192.0.2.2/24"))?;
    stage.cable(
        ("b", "eth1", "198.51.100.1/24"),
        ("c", "eth0", "198.51.100.2/24"),
    )?;
    if ping(stage, "a", "198.51.100.2", 1).is_ok() {
        return Err("host a reaches host c, which it should not".to_owned());
    }
    println!("    a cannot reach c: yes, a ping gets no answer");
    Ok(())
}

fn start_daemons(stage: &Stage, weft: &Path) -> Outcome<()> {
    say(
        "On each host a Weft daemon is launched, all with the same password. a and c are told of b.",
    );
    let peers: [(&str, &[&str]); 3] = [("b", &[]), ("a", &["192.0.2.2"]), ("c", &["198.51.100.1"])];
    for (host, peers) in peers {
        // By default a peer's name comes from its machine, which is the same for all three here.
        let name = format!("00:00:00:00:00:0{host}");
        let launch = [&["launch", "--nickname", host, "--name", &name][..], peers].concat();
        println!("    {host}# weft {}", launch.join(" "));
        run(stage
            .weft(host, weft, &launch)
            .env("WEAVE_PASSWORD", PASSWORD))?;
    }
    Ok(())
}

fn attach(stage: &Stage, weft: &Path) -> Outcome<()> {
    say("Four containers, here bare namespaces, are attached with addresses of one subnet.");
    for (host, container, address) in CONTAINERS {
        stage.add(container)?;
        let name = stage.full(container);
        println!("    {host}# weft attach {address} --netns {name}");
        run(&mut stage.weft(host, weft, &["attach", address, "--netns", &name]))?;
    }
    Ok(())
}

fn tell_status(stage: &Stage, weft: &Path) -> Outcome<()> {
    wait_for("a connection of b to both others", LIMIT, || {
        let status = run(&mut stage.weft("b", weft, &["status", "connections"]))?;
        let established = status.matches(" established ").count();
        if established == 2 && status.matches("mtu=").count() == 2 {
            Ok(())
        } else {
            Err(status)
        }
    })?;
    say("b has an encrypted connection to each of the others.");
    println!("    b# weft status connections");
    show_output(&run(&mut stage.weft(
        "b",
        weft,
        &["status", "connections"],
    ))?);
    let peers = wait_for("three peers at a", LIMIT, || {
        let peers = run(&mut stage.weft("a", weft, &["status", "peers"]))?;
        let count = peers.lines().filter(|line| !line.starts_with(' ')).count();
        if count == 3 { Ok(peers) } else { Err(peers) }
    })?;
    say("a knows all three peers and who is connected to whom, though it is connected to b only.");
    println!("    a# weft status peers");
    show_output(&peers);
    say(
        "So a knows its routes: the peer on the right is where frames for the one on the left go next.",
    );
    let template = "{{range .Router.UnicastRoutes}}{{.Dest}} via {{.Via}}{{\"\\n\"}}{{end}}";
    println!("    a# weft report -f '…Router.UnicastRoutes…'");
    show_output(&wait_for("a route to every peer", LIMIT, || {
        let routes = run(&mut stage.weft("a", weft, &["report", "-f", template]))?;
        if routes.lines().count() == 3 {
            Ok(routes)
        } else {
            Err(routes)
        }
    })?);
    Ok(())
}

fn move_data(stage: &Stage) -> Outcome<()> {
    say("Container web on a pings container db on c. The frames pass through b.");
    wait_for("an answer from db", LIMIT, || {
        ping(stage, "web", "10.32.0.3", 1)
    })?;
    show_output(&ping(stage, "web", "10.32.0.3", 3)?);
    for (container, address) in [
        ("middle", "10.32.0.1"),
        ("cache", "10.32.0.1"),
        ("db", "10.32.0.4"),
    ] {
        wait_for(&format!("an answer to {container}"), LIMIT, || {
            ping(stage, container, address, 1)
        })?;
    }
    say(&format!(
        "web sends db {MEGABYTES} megabytes by TCP; both ends compute a checksum."
    ));
    let receiver = start(&mut stage.traffic("db", &["receive", "10.32.0.3"])?)?;
    let watch = Stopwatch::start();
    let sent = wait_for("the transfer", LIMIT, || {
        run(&mut stage.traffic("web", &["send", "10.32.0.3", MEGABYTES])?)
    })?;
    let received = finish_started(receiver, "the receiving end")?;
    show_output(&format!("sent     {sent}\nreceived {received}"));
    if sent != received {
        return Err("what arrived is not what was sent".to_owned());
    }
    let bytes: f64 = sent
        .split(' ')
        .next()
        .and_then(|b| b.parse().ok())
        .unwrap_or(0.0);
    let rate = bytes * 8.0 / 1e6 / watch.elapsed().as_secs_f64();
    println!("    The same, in {watch}: {rate:.0} Mbit/s, encrypted twice on the way.");
    Ok(())
}

fn cut_and_heal(stage: &Stage) -> Outcome<()> {
    say("The cable between b and c is cut.");
    stage.ip("b", &["link", "set", "eth1", "down"])?;
    if ping(stage, "web", "10.32.0.3", 2).is_ok() {
        return Err("web still reaches db without a cable".to_owned());
    }
    println!("    web does not reach db any more; middle, on b, it does:");
    show_output(&ping(stage, "web", "10.32.0.2", 2)?);
    say("The cable is healed. Nobody tells Weft.");
    let watch = Stopwatch::start();
    stage.ip("b", &["link", "set", "eth1", "up"])?;
    wait_for("an answer from db", LIMIT, || {
        ping(stage, "web", "10.32.0.3", 1)
    })?;
    println!("    web reaches db again, {watch} later");
    Ok(())
}

/// Pings; the two summary lines, or an error if nothing came back.
fn ping(stage: &Stage, from: &str, address: &str, count: u32) -> Outcome<String> {
    let mut command = stage.command(from, "ping");
    command.args([
        "-n",
        "-i",
        "0.2",
        "-W",
        "1",
        "-c",
        &count.to_string(),
        address,
    ]);
    let output = run(&mut command)?;
    Ok(output
        .lines()
        .filter(|line| line.contains(" = ") || line.contains("received"))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// A recording of both of b's cables.
struct Record {
    tcpdump: Child,
    file: PathBuf,
}

impl Record {
    fn start(stage: &Stage) -> Outcome<Self> {
        let file = stage.directory().join("cables.pcap");
        let mut command = stage.command("b", "tcpdump");
        command.args([
            "-i",
            "any",
            "--immediate-mode",
            "-U",
            "-s",
            "0",
            "-B",
            "65536",
        ]);
        command
            .args(["-Z", "root", "port", "6783", "-w"])
            .arg(&file);
        let mut tcpdump = start(&mut command)?;
        let words = tcpdump.stderr.take().expect("started with a pipe");
        let listens = BufReader::new(words)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("listening on"));
        if listens {
            Ok(Self { tcpdump, file })
        } else {
            Err("tcpdump does not start".to_owned())
        }
    }
}

fn tell_record(mut record: Record) -> Outcome<()> {
    thread::sleep(Duration::from_millis(500));
    let pid = record.tcpdump.id().to_string();
    run(Command::new("kill").args(["-INT", &pid]))?;
    // It ends by the signal; its verdict on itself is of no interest.
    let _ = record.tcpdump.wait();
    let bytes = fs::read(&record.file).map_err(|e| format!("{}: {e}", record.file.display()))?;
    let seen = bytes
        .windows(traffic::TEXT.len())
        .filter(|w| *w == traffic::TEXT)
        .count();
    let megabytes = bytes.len() / 1_000_000;
    say(&format!(
        "All that time {megabytes} megabytes on b's cables were recorded. The text that web sent to db\n\
         appears in them {seen} times."
    ));
    if bytes.len() < 1_000_000 {
        return Err("the recording is too short to prove anything".to_owned());
    }
    if seen > 0 {
        return Err("container bytes were on a cable in clear".to_owned());
    }
    Ok(())
}

fn tell_how_to_enter(stage: &Stage, weft: &Path) {
    say("Everything is left running. To enter a host, and then use weft there:");
    for host in ["a", "b", "c"] {
        let environment: Vec<String> = stage
            .environment(host)
            .iter()
            .map(|(name, value)| format!("{name}={}", value.display()))
            .collect();
        println!(
            "    ip netns exec {} env {} bash",
            stage.full(host),
            environment.join(" ")
        );
    }
    println!("    alias weft={}", weft.display());
    say("To enter a container:");
    for (_, container, address) in CONTAINERS {
        println!(
            "    ip netns exec {} bash    # {address}",
            stage.full(container)
        );
    }
    say("To remove it all:\n    cargo xtask demo --remove");
}
