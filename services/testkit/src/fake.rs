//! A role made of fakes, to stand beside the roles under test: implement the generated server trait of a neighbour and mount it.

use async_trait::async_trait;
use mercato_chassis::{Context, Fault, Mounted, Prepared, Role, config::Source};
use std::sync::Arc;

type Mount = Arc<dyn Fn(&Context, &mut Mounted) + Send + Sync>;

/// A role without a database that mounts what it is told.
#[derive(Clone)]
pub struct Fake {
    name: &'static str,
    mount: Mount,
}

impl Fake {
    /// A role `name` that mounts fakes: `Fake::role("inventory", |_, m| m.add(StockServiceServer::new(fake.clone())))`.
    pub fn role(name: &'static str, mount: impl Fn(&Context, &mut Mounted) + Send + Sync + 'static) -> Box<dyn Role> {
        Box::new(Fake { name, mount: Arc::new(mount) })
    }
}

impl Role for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn configure(&self, _: &mut Source) -> Box<dyn Prepared> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Prepared for Fake {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let mut mounted = Mounted::new();
        (self.mount)(&ctx, &mut mounted);
        Ok(mounted)
    }
}
