//! What goes over this process's links, on its page of metrics.

use std::sync::Arc;
use std::time::Duration;

use carillon_link::quic::{Counters, Counts};
use carillon_link::tls::Role;
use carillon_node::metrics::{Def, Meter, Registry};
use tokio::runtime::Handle;

/// How often what went through is published.
const PUBLISH_PERIOD: Duration = Duration::from_millis(500);

/// The roles of peers, as the label of [`LinkMetric`].
const PEERS: [&str; 2] = ["router", "gateway"];

carillon_node::metric_table! {
    /// What goes over QUIC, by what is at the other end.
    enum LinkMetric {
        Connections = Def::counter("link_connections", "QUIC connections that came about").by("peer", &PEERS),
        Reconnects = Def::counter("link_reconnects", "Attempts to connect after the first").by("peer", &PEERS),
        Lanes = Def::counter("link_lanes", "Lanes that came about").by("peer", &PEERS),
        LanesOpen = Def::gauge("link_lanes_open", "Lanes that are open").by("peer", &PEERS),
        FramesIn = Def::counter("link_frames_in", "Frames received").by("peer", &PEERS),
        FramesOut = Def::counter("link_frames_out", "Frames sent").by("peer", &PEERS),
        BytesIn = Def::counter("link_bytes_in", "Bytes of frames received").by("peer", &PEERS),
        BytesOut = Def::counter("link_bytes_out", "Bytes of frames sent").by("peer", &PEERS),
    }
}

/// Publishes these counters from now on, each with the role of the peers that it is about.
pub(super) fn publish(runtime: &Handle, registry: &Registry, counters: Vec<(Role, Arc<Counters>)>) {
    let meter = registry.meter(&[]);
    let source = |(role, counters)| Source { role, counters, published: Counts::default() };
    let mut sources: Vec<Source> = counters.into_iter().map(source).collect();
    runtime.spawn(async move {
        loop {
            for source in &mut sources {
                source.publish(&meter);
            }
            for role in [Role::Router, Role::Gateway] {
                let of_role = sources.iter().filter(|source| source.role == role);
                let lanes_open: u64 = of_role.map(|source| source.published.lanes_open).sum();
                let lanes_open = i64::try_from(lanes_open).unwrap_or(i64::MAX);
                meter.set_at(LinkMetric::LanesOpen, label(role), lanes_open);
            }
            tokio::time::sleep(PUBLISH_PERIOD).await;
        }
    });
}

fn label(role: Role) -> usize {
    match role {
        Role::Router => 0,
        Role::Gateway => 1,
    }
}

/// Counters that grow, and how much of them is published.
struct Source {
    role: Role,
    counters: Arc<Counters>,
    published: Counts,
}

impl Source {
    fn publish(&mut self, meter: &Meter<LinkMetric>) {
        let (now, before) = (self.counters.read(), std::mem::take(&mut self.published));
        for (metric, now, before) in [
            (LinkMetric::Connections, now.connections, before.connections),
            (LinkMetric::Reconnects, now.reconnects, before.reconnects),
            (LinkMetric::Lanes, now.lanes, before.lanes),
            (LinkMetric::FramesIn, now.frames_in, before.frames_in),
            (LinkMetric::FramesOut, now.frames_out, before.frames_out),
            (LinkMetric::BytesIn, now.bytes_in, before.bytes_in),
            (LinkMetric::BytesOut, now.bytes_out, before.bytes_out),
        ] {
            meter.add_at(metric, label(self.role), now.saturating_sub(before));
        }
        self.published = now;
    }
}
