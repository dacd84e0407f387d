//! Scenario `batch`: twenty products at once, beside the echo: a page of the list through Envoy, as customers have it, and
//! BatchGetProducts straight at the catalog's port, as ordering has it. The public face has no batch of given ids.

use crate::Settings;
use crate::echo::Echo;
use crate::load::{Caller, closed};
use crate::measured::Measured;
use crate::peer::Peer;
use crate::processes::Processes;
use crate::read::{self, STREAMS, WARM_UP};
use crate::rest::{Ask, Connection};
use crate::shop::{self, SIZE};
use anyhow::Context;
use mercato_contracts::mercato::catalog::v1::product_lookup_service_client::ProductLookupServiceClient;
use mercato_contracts::mercato::catalog::v1::product_service_client::ProductServiceClient;
use mercato_contracts::mercato::catalog::v1::{BatchGetProductsRequest, ListProductsRequest};
use prost::Message;
use std::sync::Arc;
use tonic::transport::Channel;

/// Pages that are asked for in turn.
const PAGES: usize = 50;
/// Loads that share the scenario's time: shop and echo, three ways.
const LOADS: u32 = 6;

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut pages = shop::pages(&settings.url, PAGES).await?;
    pages.sort_by_key(|p| p.answer.encoded_len());
    let typical = pages.get(pages.len() / 2).context("the shop has too few products")?;
    let echo = Echo::start(settings, &typical.answer.products).await?;
    let mut processes = Processes::find(&settings.run_dir)?;
    for process in echo.processes()? {
        processes.push(process);
    }
    println!("## batch: {SIZE} products at once\n");
    println!(
        "{} pages or batches of {SIZE} in turn; the echo answers with those of the middle size, {} bytes as protobuf. A page is ListProducts \
         through Envoy; a batch is BatchGetProducts straight at the catalog's port with a peer's credential, because the public face has no \
         batch of given ids. Closed loops of {} calls under way, {:.1} s each. CPU in microseconds a request, idle use included.\n",
        pages.len(),
        typical.answer.encoded_len(),
        settings.connections,
        settings.share(1, LOADS).as_secs_f64(),
    );
    let bench = Bench {
        settings,
        processes: &processes,
        tokens: pages.iter().map(|p| p.token.clone()).collect(),
        batches: pages.iter().map(|p| p.answer.products.iter().map(|p| p.id.clone()).collect()).collect(),
    };
    let service = read::shop_names(&processes);
    let mut table = read::table();
    for way in [Way::Rest, Way::Grpc, Way::Peer] {
        let (name, shop_url, echo_url) = match way {
            Way::Rest => ("page, REST", &settings.url, &echo.url),
            Way::Grpc => ("page, gRPC", &settings.url, &echo.url),
            Way::Peer => ("batch, peer", &settings.catalog, &echo.backend),
        };
        let floor = bench.load(way, echo_url, format!("{name}, echo")).await?;
        let shop = bench.load(way, shop_url, format!("{name}, shop")).await?;
        table.row(read::row(&floor, None, &service));
        table.row(read::row(&shop, Some(&floor), &service));
    }
    table.print();
    Ok(())
}

#[derive(Clone, Copy)]
enum Way {
    Rest,
    Grpc,
    Peer,
}

struct Bench<'a> {
    settings: &'a Settings,
    processes: &'a Processes,
    tokens: Arc<[String]>,
    batches: Arc<[Vec<String>]>,
}

impl Bench<'_> {
    async fn load(&self, way: Way, url: &str, name: String) -> anyhow::Result<Measured> {
        let callers = 0..self.settings.connections;
        if matches!(way, Way::Rest) {
            let paths: Arc<[String]> = self.tokens.iter().map(|t| format!("/api/products?pageSize={SIZE}&pageToken={t}")).collect();
            let mut callers: Vec<Rest> = callers.map(|_| Rest { connection: Connection::to(url), paths: Arc::clone(&paths) }).collect();
            return self.press(&mut callers, name).await;
        }
        let mut grpc = Vec::new();
        for _ in callers.step_by(usize::try_from(STREAMS)?) {
            grpc.push(Peer::connect(url, &self.settings.peer_secret).await?);
        }
        let turns = grpc.iter().cycle().take(self.settings.connections.try_into()?).cloned();
        if matches!(way, Way::Grpc) {
            let mut callers: Vec<Page> =
                turns.map(|p| Page { client: ProductServiceClient::new(p.channel), tokens: Arc::clone(&self.tokens) }).collect();
            return self.press(&mut callers, name).await;
        }
        let batches = &self.batches;
        let mut callers: Vec<Batch> = turns
            .map(|peer| Batch { client: ProductLookupServiceClient::new(peer.channel.clone()), peer, batches: Arc::clone(batches) })
            .collect();
        self.press(&mut callers, name).await
    }

    async fn press<C: Caller>(&self, callers: &mut [C], name: String) -> anyhow::Result<Measured> {
        closed(callers, WARM_UP).await;
        let meter = self.processes.start()?;
        let outcome = closed(callers, self.settings.share(1, LOADS)).await;
        Ok(Measured { name, outcome, cost: meter.stop()? })
    }
}

fn turn<T>(all: &[T], n: u64) -> Option<&T> {
    all.get(usize::try_from(n).ok()?.checked_rem(all.len())?)
}

struct Rest {
    connection: Connection,
    paths: Arc<[String]>,
}

impl Caller for Rest {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let path = turn(&self.paths, n).context("no pages")?;
        let answer = self.connection.send(&Ask::get(path)).await?;
        anyhow::ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        Ok(())
    }
}

struct Page {
    client: ProductServiceClient<Channel>,
    tokens: Arc<[String]>,
}

impl Caller for Page {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let page_token = turn(&self.tokens, n).context("no pages")?.clone();
        self.client.list_products(ListProductsRequest { page_size: SIZE, page_token, ..ListProductsRequest::default() }).await?;
        Ok(())
    }
}

struct Batch {
    client: ProductLookupServiceClient<Channel>,
    peer: Peer,
    batches: Arc<[Vec<String>]>,
}

impl Caller for Batch {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let product_ids = turn(&self.batches, n).context("no batches")?.clone();
        let found = self.client.batch_get_products(self.peer.request(BatchGetProductsRequest { product_ids })?).await?;
        anyhow::ensure!(found.get_ref().missing.is_empty(), "a product is missing");
        Ok(())
    }
}
