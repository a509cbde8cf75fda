#!/usr/bin/env bash
# BDR and BDR_Online on BlueOrca and RedOrca, with the options and defaults of BIPOST's script of this name.
# A thin layer: it writes a command line of `raylign train` on top of the two recipes, prints it, and runs it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: run_llama3_8b_blueorca_redorca.sh [OPTION VALUE ...] [-- MORE OPTIONS OF raylign train]

  --selector_mode MODE          BDR or BDR_Online (BDR)
  --dynamic_mode                BDR_Online: answer the rows of the smallest weights, not rows drawn once (off)
  --online_sample_ratio RATIO   BDR_Online: share of rows that are answered anew (0.1)
  --online_generation_freq N    BDR_Online: steps from one refresh of the answers to the next (500)
  --online_sample_size N        BDR_Online: answers to each question (1)
  --online_temperature T        BDR_Online: sampling temperature (1.0)
  --generation_batch_size N     BDR_Online: answers decoded side by side (32)
  --filter_rate RATE            share of a batch that the gate leaves out (BDR_Online: 0.1; BDR: no gate unless given)
  --dataset_1 FILE              trusted rows (./examples/datasets/BlueOrca/train.jsonl)
  --dataset_2 FILE              rows to weigh (./examples/datasets/RedOrca/train.jsonl)
  --input_key KEY, --output_key KEY          columns of dataset_1 (question, response)
  --input_key_2 KEY, --output_key_2 KEY      columns of dataset_2 (question, response)
  --max_samples_1 N, --max_samples_2 N       rows of each set, at most (56000)
  --max_len_1 N, --max_len_2 N               context in tokens, one for both (2048)
  --pretrain MODEL              model to start from (meta-llama/Meta-Llama-3-8B-Instruct)
  --train_batch_size N          rows of each set in a step (32)
  --micro_train_batch_size N    accepted; no number depends on it (learner.micro_batch_tokens)
  --learning_rate RATE          (5e-6)
  --selector_learning_rate RATE (1e-4)
  --max_epochs N                passes over the rows to weigh (2)
  --lora_rank N, --lora_alpha N, --target_modules "A B"      (16, 16, "q_proj v_proj")
  --zero_stage N                (2)
  --num_gpus N                  GPUs that train; BDR_Online: half of them answer (8)
  --save_path FOLDER            (./checkpoint/llama3_8b_blueorca_redorca)
  --wandb_run_name NAME         name of the run (llama3_8b_blueorca_redorca)
  --wandb_project PROJECT       log to Weights & Biases, under this project (no tracker)
  --dry_run                     print the command and stop
  --help                        this page

Data sets are also looked for in ../datasets (from examples/scripts) and data/BlueOrca.jsonl, data/RedOrca.jsonl.
Folders: SAVE_PATH/BDR[_filter_RATE], SAVE_PATH/BDR_Online/ratio_R/size_N[_dynamic]_filter_RATE.
TEXT
}

fail() { echo "error: $1" >&2; exit 2; }

declare -A given=()
valued=" selector_mode online_sample_ratio online_generation_freq online_sample_size online_temperature generation_batch_size
 filter_rate dataset_1 dataset_2 input_key output_key input_key_2 output_key_2 max_samples_1 max_samples_2 max_len_1 max_len_2
 pretrain train_batch_size micro_train_batch_size learning_rate selector_learning_rate max_epochs lora_rank lora_alpha
 target_modules zero_stage num_gpus save_path wandb_run_name wandb_project "
valued=${valued//$'\n'/}
while (($#)); do
    case $1 in
        --help) usage; exit 0 ;;
        --dynamic_mode | --dry_run) given[${1#--}]=true; shift ;;
        --) shift; break ;;
        *)
            [[ $1 == --* && $valued == *" ${1#--} "* ]] || fail "unknown option $1; --help lists them"
            (($# > 1)) && [[ $2 != --* ]] || fail "$1 needs a value"
            given[${1#--}]=$2; shift 2 ;;
    esac
done

of() { echo "${given[$1]-$2}"; }
mode=$(of selector_mode BDR)
[[ $mode == BDR || $mode == BDR_Online ]] || fail "--selector_mode $mode: choose BDR or BDR_Online"

find_data() { # the first place that holds it; else the published one, which `raylign train` then says is missing
    local place
    for place in "./examples/datasets/$1/train.jsonl" "../datasets/$1/train.jsonl" "data/$1.jsonl"; do
        if [[ -f $place ]]; then echo "$place"; return; fi
    done
    echo "./examples/datasets/$1/train.jsonl"
}
trusted=$(of dataset_1 "$(find_data BlueOrca)")
weighed=$(of dataset_2 "$(find_data RedOrca)")
[[ $trusted != *,* && $weighed != *,* ]] || fail "one file a data set: join the files of a comma list"

rows_of() { # FILE MOST LAST%: at most so many rows, and none of the held-out ones above LAST%
    local count
    if [[ -f $1 ]] && count=$(grep -c '' "$1") && (($2 < count * $3 / 100)); then echo "0:$2"; else echo "0%:$3%"; fi
}
words=(
    --trusted_data.source "$trusted" --trusted_data.rows "$(rows_of "$trusted" "$(of max_samples_1 56000)" 97)"
    --trusted_data.prompt "{$(of input_key question)}" --trusted_data.reference "{$(of output_key response)}"
    --data.source "$weighed" --data.rows "$(rows_of "$weighed" "$(of max_samples_2 56000)" 100)"
    --data.prompt "{$(of input_key_2 question)}" --data.reference "{$(of output_key_2 response)}"
    --evaluation.trusted.source "$trusted" --evaluation.trusted.rows 97%:100%
    --evaluation.trusted.prompt "{$(of input_key question)}" --evaluation.trusted.reference "{$(of output_key response)}"
    --model.path "$(of pretrain meta-llama/Meta-Llama-3-8B-Instruct)"
    --rollout.engine.max_model_len "$(of max_len_2 "$(of max_len_1 2048)")"
    --rollout.prompts_per_step "$(of train_batch_size 32)" --num_epochs "$(of max_epochs 2)"
    --learner.learning_rate "$(of learning_rate 5e-6)"
    --algorithm.selector.learning_rate "$(of selector_learning_rate 1e-4)"
    --learner.lora.rank "$(of lora_rank 16)" --learner.lora.alpha "$(of lora_alpha 16)"
    --learner.lora.target_modules "[\"$(of target_modules 'q_proj v_proj' | sed 's/ \+/", "/g')\"]"
    --learner.zero_stage "$(of zero_stage 2)" --name "$(of wandb_run_name llama3_8b_blueorca_redorca)"
)
gpus=$(of num_gpus 8)
save_path=$(of save_path ./checkpoint/llama3_8b_blueorca_redorca)
if [[ $mode == BDR ]]; then
    words=(--config bdr_blueorca_redorca "${words[@]}" --learner.num_ranks "$gpus")
    folder=$save_path/BDR
    if [[ -v given[filter_rate] ]]; then # the published BDR takes the rate and filters nothing; its help says it filters
        words+=(--algorithm.gate true --algorithm.filter_rate "${given[filter_rate]}")
        folder+=_filter_${given[filter_rate]}
    fi
else
    ratio=$(of online_sample_ratio 0.1) size=$(of online_sample_size 1) rate=$(of filter_rate 0.1)
    dynamic=$(of dynamic_mode "")
    words=(--config bdr_online_blueorca_redorca "${words[@]}"
        --learner.num_ranks $(((gpus + 1) / 2)) --rollout.num_engines $(((gpus + 1) / 2))
        --algorithm.masked_share "$ratio" --algorithm.generation_every_steps "$(of online_generation_freq 500)"
        --algorithm.filter_rate "$rate" --algorithm.dynamic "${dynamic:-false}"
        --sampling.num_completions "$size" --sampling.temperature "$(of online_temperature 1.0)"
        --rollout.engine.max_num_seqs "$(of generation_batch_size 32)")
    folder=$save_path/BDR_Online/ratio_$ratio/size_$size${dynamic:+_dynamic}_filter_$rate
fi
words+=(--folder "$folder")
if [[ -v given[wandb_project] ]]; then words+=(--trackers.wandb true --trackers.wandb_project "${given[wandb_project]}"); fi

beside=$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/raylign
raylign=${RAYLIGN-raylign}
if ! command -v "${raylign%% *}" >/dev/null && [[ -x $beside ]]; then raylign=$beside; fi
printf '%s train' "$raylign"; printf ' %q' "${words[@]}" "$@"; printf '\n'
if [[ -v given[dry_run] ]]; then exit 0; fi
# shellcheck disable=SC2086  # RAYLIGN may be several words, `python -m raylign.jobs`
exec $raylign train "${words[@]}" "$@"
