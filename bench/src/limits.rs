//! How many streams this machine and these processes can hold open, and why not more.

use anyhow::Context;
use std::path::Path;

/// Files a process opens for itself.
const OWN_FILES: u32 = 1000;
/// Ports left to everybody else.
const OTHER_PORTS: u32 = 3000;

/// Something that bounds the number of streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// How many it allows.
    pub most: u32,
    /// What it is.
    pub why: String,
}

/// What these processes may open, `files` of them for each stream (name, process id, files), and the ports of a client that needs one a
/// stream.
pub fn bounds(processes: &[(String, u32, u32)]) -> anyhow::Result<Vec<Bound>> {
    let mut bounds = Vec::new();
    for (name, pid, files) in processes {
        let path = format!("/proc/{pid}/limits");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path} of {name}"))?;
        let open = open_files(&text).with_context(|| format!("{path} is not as expected"))?;
        let most = open.saturating_sub(OWN_FILES) / files;
        bounds.push(Bound { most, why: format!("{name} may open {open} files") });
    }
    let range = std::fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_local_port_range"))?;
    let ports = ports(&range).context("ip_local_port_range is not as expected")?;
    bounds.push(Bound { most: ports.saturating_sub(OTHER_PORTS), why: format!("a client has {ports} ports") });
    Ok(bounds)
}

/// What is wanted, or the least of what is allowed and why.
pub fn scaled(wanted: u32, bounds: Vec<Bound>) -> (u32, Option<String>) {
    match bounds.into_iter().min_by_key(|b| b.most) {
        Some(least) if least.most < wanted => (least.most, Some(least.why)),
        _ => (wanted, None),
    }
}

fn open_files(limits: &str) -> Option<u32> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u32::MAX) } else { soft.parse().ok() }
}

fn ports(range: &str) -> Option<u32> {
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_texts_are_understood() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 20000                files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024 ", "unlimited ")), Some(u32::MAX));
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
    }

    #[test]
    fn the_tightest_bound_is_named() {
        let bound = |most, why: &str| Bound { most, why: why.into() };
        assert_eq!(scaled(100, vec![bound(90, "files"), bound(80, "ports")]), (80, Some("ports".into())));
        assert_eq!(scaled(50, vec![bound(90, "files")]), (50, None));
    }
}
