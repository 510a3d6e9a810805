//! A clsact qdisc that carries nothing any more is taken away again: the interface is left as it was found.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Best effort: a qdisc that stays does nothing, and somebody else may have made it.
pub(super) fn remove_if_empty(interface: &str) {
    let interface = interface.to_owned();
    if let Err(error) = elsewhere(async move { remove(&interface).await }) {
        tracing::debug!("looking after a clsact qdisc: {error}");
    }
}

/// Whether a filter with this priority and handle is on the interface; one that cannot be looked at has none.
pub(super) fn has_filter(interface: &str, ingress: bool, priority: u16, handle: u16) -> bool {
    let interface = interface.to_owned();
    let found = elsewhere(async move {
        let index = i32::try_from(nix::net::if_::if_nametoindex(&*interface)?)?;
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        let driver = tokio::spawn(connection);
        let mut filters = netlink.traffic_filter(index);
        let filters: Vec<_> = match ingress {
            true => filters.get().ingress().execute().try_collect().await?,
            false => filters_egress(filters).await?,
        };
        driver.abort();
        let ours = TcHandle { major: 0, minor: handle };
        Ok(filters
            .iter()
            .any(|filter| filter.header.handle == ours && filter.header.info >> 16 == u32::from(priority)))
    });
    found.unwrap_or_else(|error| {
        tracing::debug!("looking at the filters of an interface: {error}");
        false
    })
}

/// In a runtime of its own, on a thread of its own, in the caller's network namespace: callers are in async code too.
fn elsewhere<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let run = move || tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(work);
    std::thread::spawn(run).join().map_err(|_| "the thread died")?
}

async fn remove(interface: &str) -> Result<(), Failure> {
    let index = i32::try_from(nix::net::if_::if_nametoindex(interface)?)?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let filters = handle.traffic_filter(index);
    let ingress: Vec<_> = { handle.traffic_filter(index).get().ingress().execute().try_collect().await? };
    let egress: Vec<_> = { filters_egress(filters).await? };
    if ingress.is_empty() && egress.is_empty() {
        let qdiscs: Vec<_> = handle.qdisc().get().index(index).execute().try_collect().await?;
        for qdisc in qdiscs {
            let clsact = qdisc
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact"));
            if clsact && qdisc.header.index == index {
                let mut request = handle.qdisc().del(index);
                *request.message_mut() = qdisc;
                request.execute().await?;
            }
        }
    }
    driver.abort();
    Ok(())
}

async fn filters_egress(
    mut filters: rtnetlink::TrafficFilterHandle,
) -> Result<Vec<rtnetlink::packet_route::tc::TcMessage>, rtnetlink::Error> {
    filters.get().egress().execute().try_collect().await
}
