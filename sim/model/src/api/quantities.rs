//! Stores quantities in the API server's own notation: `200000k` becomes `200M`.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go (MarshalJSON).
//! Differs: nothing on purpose.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kubelet::canonical_quantity::canonical;
use serde_json::Value;

/// Fields that hold lists of quantities by resource name.
const LISTS: [&str; 6] = ["requests", "limits", "allocatedResources", "overhead", "capacity", "allocatable"];

/// Rewrites all quantities of an object.
pub(super) fn canonicalise(object: &mut Value) {
    match object {
        Value::Object(map) => {
            for (field, value) in map {
                match value {
                    Value::Object(list) if LISTS.contains(&field.as_str()) => list.values_mut().for_each(rewrite),
                    value => canonicalise(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(canonicalise),
        _ => {}
    }
}

fn rewrite(quantity: &mut Value) {
    let text = match quantity {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    *quantity = canonical(&Quantity(text)).0.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // As kube-apiserver 1.36 stores them.
    #[test]
    fn quantities_are_stored_in_one_notation() {
        let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {"memory": "200000k", "cpu": 2}}}]},
                             "status": {"allocatedResources": {"memory": "129000000"}}});
        canonicalise(&mut pod);
        let expected = json!({"spec": {"containers": [{"resources": {"limits": {"memory": "200M", "cpu": "2"}}}]},
                              "status": {"allocatedResources": {"memory": "129M"}}});
        assert_eq!(pod, expected);
    }
}
