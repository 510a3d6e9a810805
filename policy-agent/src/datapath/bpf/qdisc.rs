//! A clsact qdisc that carries nothing any more is taken away again: the interface is left as it was found.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcAttribute;

/// Best effort: a qdisc that stays does nothing, and somebody else may have made it.
pub(super) fn remove_if_empty(interface: &str) {
    let interface = interface.to_owned();
    // A runtime of its own, on a thread of its own, in the caller's network namespace: callers are in async code too.
    let result = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(remove(&interface))
    })
    .join();
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("looking after a clsact qdisc: {error}"),
        Err(_) => tracing::debug!("looking after a clsact qdisc: the thread died"),
    }
}

async fn remove(interface: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
