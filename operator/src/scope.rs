//! Where the operator works: in all namespaces, by rights on the whole cluster; or in some, by rights that a RoleBinding gives it in each of them. A watch
//! of everything would be refused then, so there is one for each namespace.
use kube::{Api, Client, Resource, core::NamespaceResourceScope};

/// The namespaces; none named: all.
#[derive(Debug, Clone, Default)]
pub struct Scope(Vec<String>);

// === impl Scope ===

impl Scope {
    /// Of the namespaces that the command line names.
    pub fn new(namespaces: &[String]) -> Self {
        let mut named: Vec<String> = namespaces.iter().filter(|name| !name.is_empty()).cloned().collect();
        named.sort();
        named.dedup();
        Self(named)
    }

    /// Whether it is all of them.
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// What is watched by itself: each namespace, or everything (`None`).
    pub fn each(&self) -> Vec<Option<String>> {
        if self.0.is_empty() { vec![None] } else { self.0.iter().cloned().map(Some).collect() }
    }
}

/// Objects of a namespace, or of all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_named_is_everything_and_a_namespace_named_twice_is_watched_once() {
        let each = |names: &[&str]| Scope::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).each();
        assert_eq!(each(&[]), [None]);
        assert_eq!(each(&[""]), [None], "an empty variable names nothing");
        assert_eq!(each(&["shop", "pay", "shop"]), [Some("pay".to_owned()), Some("shop".to_owned())]);
    }
}
