//! A crossing for people: the legs, what was on each, and both sidecars in time.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::{Crossing, Heard, Leg, Moment, Which, certificate};
use crate::words::{Bytes, Columns, Elapsed, Escaped, hex_lines};

/// Lines of sixteen bytes that are shown of each way of a leg.
const LINES: usize = 4;

impl Display for Crossing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (client, server) = (Escaped(&self.client), Escaped(&self.server));
        writeln!(
            f,
            "{client} -> {server}: connection {} of {client} is connection {} of {server}",
            self.outbound.id, self.inbound.id
        )?;
        for leg in &self.legs {
            self.leg(f, leg)?;
        }
        self.times(f)
    }
}

impl Crossing {
    fn leg(&self, f: &mut Formatter<'_>, leg: &Leg) -> fmt::Result {
        let address = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(|| "?".to_owned(), |address| address.to_string())
        };
        let mark = if leg.secured { "encrypted" } else { "open" };
        writeln!(f, "\n{}, {mark}: {} -> {}", self.name(leg.which), address(leg.from), address(leg.to))?;
        writeln!(f, "  {}", Escaped(&leg.carries))?;
        if leg.which == Which::Mesh {
            for (whose, tls) in [(&self.server, &self.outbound.tls), (&self.client, &self.inbound.tls)] {
                if let Some(tls) = tls {
                    writeln!(f, "  {}: {}", Escaped(whose), certificate(tls))?;
                }
            }
        }
        writeln!(
            f,
            "  {} to the server, {} to the client, as the apps count them",
            Bytes(leg.bytes_to_server),
            Bytes(leg.bytes_to_client)
        )?;
        let (Some(passed), Some(heard)) = (&leg.passed, leg.heard) else { return Ok(()) };
        let whence = match heard {
            Heard::OnTheNetwork => "heard on the network here",
            Heard::KeptByTheSidecar => "kept by the sidecar",
        };
        for (whom, bytes) in [("server", &passed.to_server), ("client", &passed.to_client)] {
            if !bytes.is_empty() {
                writeln!(f, "  the first bytes to the {whom}, {whence}:")?;
                hex_lines(bytes, LINES).into_iter().try_for_each(|line| writeln!(f, "    {line}"))?;
            }
        }
        Ok(())
    }

    fn name(&self, which: Which) -> String {
        match which {
            Which::ClientApp => format!("app of {} -> its sidecar", Escaped(&self.client)),
            Which::Mesh => "sidecar -> sidecar".to_owned(),
            Which::ServerApp => format!("sidecar -> app of {}", Escaped(&self.server)),
        }
    }

    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |name: &str| format!("sidecar of {}", Escaped(name));
        let head = ["TIME".to_owned(), of(&self.client), of(&self.server)];
        let row = |moment: &Moment| {
            let at = format!("+{}", Elapsed(Duration::from_micros(moment.at_micros)));
            let told = Escaped(&moment.told).to_string();
            if moment.of_client { [at, told, String::new()] } else { [at, String::new(), told] }
        };
        let rows: Vec<[String; 3]> = [head].into_iter().chain(self.moments.iter().map(row)).collect();
        write!(f, "\n{}", Columns(&rows).to_string().trim_end())?;
        match self.clocks_apart_micros {
            Some(apart) => {
                let apart = Elapsed(Duration::from_micros(apart));
                write!(
                    f,
                    "\nTheir clocks differ by {apart}; the right column counts from where the left one dials."
                )
            }
            None => Ok(()),
        }
    }
}
