//! ClawGuard as a service of a real systemd: the shipped units, protected services, and what outlives what.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use e2e::{Machine, World, evil4};
use serde_json::json;

/// A service that tries two addresses whenever it is started and says how it went.
const AGENT: &str = "[Service]\nType=oneshot\nUser=nobody\n\
    StandardOutput=truncate:/run/said-%p\n\
    ExecStart=/usr/bin/probe each tcp 203.0.113.10:443 tcp 203.0.113.99:443 udp 203.0.113.99:443\n";

/// A service that goes on trying.
const LASTING: &str = "[Service]\nUser=nobody\nExecStart=/usr/bin/probe flood 120 203.0.113.99:9999\n";

const FREE: &str = "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 ok hello\nudp 203.0.113.99:443 ok hello";
const FENCED: &str = "tcp 203.0.113.10:443 ok hello\ntcp 203.0.113.99:443 EPERM\nudp 203.0.113.99:443 EPERM";

/// A machine on which the daemon runs and the agent `agent` has a contract.
fn guarded(world: &mut World, units: &[(&str, &str)]) -> Machine {
    let mut all = vec![("agent.service", AGENT)];
    all.extend(units);
    let machine = Machine::boot(world, &all);
    fs::copy(world.directory.join("etc/clawguard/clawguard.toml"), machine.file("/etc/clawguard/clawguard.toml"))
        .unwrap();
    machine.ok("systemctl start clawguard.service clawguard-gateway.service");
    let payload = world.payload(json!({ "egress": [{ "host": "crm.example", "tls": false }] }));
    fs::copy(world.sign(&payload), machine.file("/run/contract.json")).unwrap();
    machine.ok("clawguard wpc use /run/contract.json --agent agent");
    machine
}

fn says(machine: &Machine) -> String {
    machine.ok("systemctl start agent.service");
    machine.ok("cat /run/said-agent")
}

#[test]
fn the_shipped_units_are_verified_and_closed() {
    let world = World::new();
    let machine = Machine::boot(&world, &[]);
    let units = "/usr/lib/systemd/system/clawguard*";
    let verified = machine.sh(&format!("systemd-analyze verify --man=no {units}"));
    assert_eq!((verified.status, verified.out.as_str(), verified.err.as_str()), (0, "", ""));
    // Exposure as systemd counts it, times ten (docs/SPECIFICATION.md).
    let exposures = [
        ("clawguard.service", 50),
        ("clawguard-gateway.service", 12),
        ("clawguard-drill.service", 12),
        ("clawguard-authority.service", 17),
    ];
    for (unit, most) in exposures {
        machine
            .ok(&format!("systemd-analyze security --offline=true --threshold={most} /usr/lib/systemd/system/{unit}"));
    }
    machine.ok(
        "systemd-sysusers --cat-config clawguard.conf && getent group clawguard && getent passwd clawguard-gateway",
    );
}

#[test]
fn a_service_is_protected_from_its_first_instruction_and_free_again_when_unprotected() {
    let mut world = World::new();
    let machine = guarded(&mut world, &[]);
    assert_eq!(says(&machine), FREE);
    let said = machine.ok("clawguard protect agent.service");
    assert!(said.contains("/etc/systemd/system/agent.service.d/50-clawguard.conf"), "{said}");
    world.far.clear();
    assert_eq!(says(&machine), FENCED);
    assert_eq!(world.far.frames(6, 443), world.far.traffic(), "{}", evil4());
    // The gateway, in its own unit and inside the fence, tells of it.
    for reason in ["not_in_contract", "quic"] {
        let denied = format!("clawguard_egress_decisions_total{{agent=\"agent\",reason=\"{reason}\"");
        assert!(world.metric(&denied) >= 1.0, "{reason}");
    }
    machine.ok("clawguard drill");
    machine.ok("systemctl start clawguard-drill.service");
    // Without the daemon there is no enrolment, and without enrolment no service.
    machine.ok("systemctl stop clawguard.service");
    machine.ok("systemctl mask --runtime clawguard.service");
    assert_ne!(machine.sh("systemctl start agent.service").status, 0);
    machine.ok("systemctl unmask --runtime clawguard.service; systemctl start clawguard.service");
    let again = says(&machine);
    assert_eq!(again, FENCED, "{}", machine.sh("clawguard explain --last 5; clawguard status").out);
    machine.ok("clawguard unprotect agent.service");
    assert_eq!(says(&machine), FREE);
}

#[test]
fn a_protected_service_stays_fenced_and_runs_on_while_the_daemon_is_killed_hangs_and_restarts() {
    let mut world = World::new();
    let machine = guarded(&mut world, &[("lasting.service", LASTING)]);
    fs::create_dir_all(machine.file("/etc/systemd/system/clawguard.service.d")).unwrap();
    fs::write(machine.file("/etc/systemd/system/clawguard.service.d/soon.conf"), "[Service]\nWatchdogSec=2\n").unwrap();
    machine.ok("systemctl daemon-reload; systemctl restart clawguard.service");
    machine.ok("clawguard wpc use /run/contract.json --agent lasting");
    machine.ok("clawguard protect lasting.service && systemctl start lasting.service");
    let main = "systemctl show -P MainPID lasting.service";
    let agent = machine.ok(main);
    world.far.clear();
    let daemon = "systemctl show -P MainPID clawguard.service";
    for disturb in [
        "systemctl kill -s KILL clawguard.service",
        "systemctl kill -s STOP clawguard.service",
        "systemctl restart clawguard.service",
    ] {
        let before = machine.ok(daemon);
        machine.ok(disturb);
        machine.eventually(&format!("[ \"$({daemon})\" != {before} ] && clawguard status"));
    }
    assert_eq!(machine.ok(main), agent, "the agent was not restarted");
    assert!(machine.ok("clawguard status").contains("lasting"));
    assert_eq!(world.far.traffic(), 0);
    machine.ok("systemctl reload clawguard.service && clawguard status");
}

#[test]
fn what_protect_cannot_hold_is_refused_with_the_reason() {
    let mut world = World::new();
    let as_root = "[Service]\nExecStart=/bin/sleep 1\n";
    let machine = guarded(&mut world, &[("as-root.service", as_root), ("other.service", LASTING)]);
    let refused = machine.sh("clawguard protect as-root.service");
    assert_eq!(refused.status, 4);
    assert!(refused.err.contains("runs as host root"), "{}", refused.err);
    let unknown = machine.sh("clawguard protect gone.service");
    assert!(
        unknown.err.contains("no system unit gone.service") && unknown.err.contains("--whole-user"),
        "{}",
        unknown.err
    );
    let bare = machine.sh("clawguard protect other.service");
    assert!(bare.err.contains("has no contract in force"), "{}", bare.err);
    assert_eq!(machine.sh("clawguard protect --whole-user root").status, 4);
}

#[test]
fn all_that_a_user_runs_can_be_fenced() {
    let mut world = World::new();
    let machine = guarded(&mut world, &[]);
    // A user's manager as logind would start it; the user's own unit is beyond any drop-in that the user cannot edit.
    machine.ok("useradd --uid 4321 --create-home agentuser && install -d -o agentuser -m 700 /run/user/4321");
    let unit = "[Service]\nType=oneshot\nStandardOutput=truncate:/home/agentuser/said\n\
        ExecStart=/usr/bin/probe each tcp 203.0.113.10:443 tcp 203.0.113.99:443 udp 203.0.113.99:443\n";
    let units = machine.file("/home/agentuser/.config/systemd/user");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("own.service"), unit).unwrap();
    machine.ok("chown -R agentuser /home/agentuser");
    machine.ok("clawguard wpc use /run/contract.json --agent agentuser && clawguard protect --whole-user agentuser");
    machine.ok("systemctl start user@4321.service");
    machine.ok("setpriv --reuid=4321 --regid=4321 --clear-groups env XDG_RUNTIME_DIR=/run/user/4321 systemctl --user start own.service");
    let said = machine.ok("cat /home/agentuser/said");
    assert_eq!(said, FENCED, "{}", machine.sh("clawguard explain --last 5; clawguard status").out);
}

#[test]
fn systemds_own_address_filters_stay_in_force_beside_the_fence() {
    let mut world = World::new();
    let filtered = AGENT.replace("User=nobody", "User=nobody\nIPAddressDeny=any\nIPAddressAllow=203.0.113.99");
    let machine = guarded(&mut world, &[("filtered.service", &filtered)]);
    let said = |machine: &Machine| {
        machine.ok("systemctl start filtered.service");
        machine.ok("cat /run/said-filtered")
    };
    let unmanaged = said(&machine);
    assert!(unmanaged.starts_with("tcp 203.0.113.10:443 TIMEOUT\ntcp 203.0.113.99:443 ok hello"), "{unmanaged}");
    machine.ok("clawguard wpc use /run/contract.json --agent filtered && clawguard protect filtered.service");
    // What either refuses is refused.
    let both = said(&machine);
    assert!(!both.contains("ok hello"), "{both}");
    machine.ok("systemctl stop clawguard.service && clawguard uninstall && clawguard unprotect filtered.service");
    assert_eq!(said(&machine), unmanaged);
}
