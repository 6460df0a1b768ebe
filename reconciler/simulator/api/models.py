"""The models of the market and the inputs that each requires, as KIE's pages list them. Data only.

Source: the createTask pages of docs.kie.ai, October 2026, and of two models that were listed before. multi_prompt and
multi_shots of kling-3.0/video are left out, because a recorded request and a published client do without them. Models
that only rename a dedicated dialect are left out, except the music models, whose answers clients have measured.
"""

from __future__ import annotations

from types import MappingProxyType

_LISTED = """
ai-music-api/add-instrumental negative_tags tags title upload_url
ai-music-api/add-vocals negative_tags style title upload_url
ai-music-api/extend audio_id model
ai-music-api/generate custom_mode instrumental model
ai-music-api/mashup model style title upload_url_list
ai-music-api/replace-section full_lyrics infill_end_s infill_start_s prompt tags title
ai-music-api/sounds model prompt
ai-music-api/upload-and-cover-audio instrumental model upload_url
ai-music-api/upload-and-extend-audio model upload_url
bytedance/seedance-1.5-pro aspect_ratio duration prompt
bytedance/seedance-2
bytedance/seedance-2-5
bytedance/seedance-2-fast
bytedance/seedance-2-mini
bytedance/seedream prompt
bytedance/seedream-v4-edit image_urls prompt
bytedance/seedream-v4-text-to-image prompt
bytedance/v1-lite-image-to-video image_url prompt
bytedance/v1-lite-text-to-video prompt
bytedance/v1-pro-fast-image-to-video image_url prompt
bytedance/v1-pro-image-to-video image_url prompt
bytedance/v1-pro-text-to-video prompt
elevenlabs/audio-isolation audio_url
elevenlabs/sound-effect-v2 text
elevenlabs/speech-to-text audio_url
elevenlabs/text-to-dialogue-v3 dialogue
elevenlabs/text-to-speech-multilingual-v2 text voice
elevenlabs/text-to-speech-turbo-2-5 text
flux-2/flex-image-to-image aspect_ratio input_urls prompt resolution
flux-2/flex-text-to-image aspect_ratio prompt resolution
flux-2/pro-image-to-image aspect_ratio input_urls prompt resolution
flux-2/pro-text-to-image aspect_ratio prompt resolution
gemini-omni-video duration prompt
google/gemini-2-5-pro-tts dialogue_turns speakers
google/gemini-3-1-flash-tts dialogue_turns speakers
google/gemini-3-8-flash-lite-tts dialogue_turns speakers
google/gemini-3-8-flash-tts dialogue_turns speakers
google/gemini-omni-flash-1-1 duration prompt
google/imagen4 prompt
google/imagen4-fast prompt
google/imagen4-ultra prompt
google/nano-banana prompt
google/nano-banana-edit image_urls prompt
gpt-image-2-5-flare-image-to-image input_urls prompt
gpt-image-2-5-flare-text-to-image prompt
gpt-image-2-5-sunburst-image-to-image input_urls prompt
gpt-image-2-5-sunburst-text-to-image prompt
gpt-image-2-image-to-image input_urls prompt
gpt-image-2-text-to-image prompt
gpt-image/1.5-image-to-image aspect_ratio input_urls prompt quality
gpt-image/1.5-text-to-image aspect_ratio prompt quality
grok-imagine-image-2-0/image-edit aspect_ratio image_urls
grok-imagine-image-2-0/segment-edit prompt task_id
grok-imagine-image-2-0/segment-map
grok-imagine-image-2-0/text-to-image aspect_ratio prompt
grok-imagine-video-1-5-preview
grok-imagine/extend extend_at extend_times prompt task_id
grok-imagine/image-to-image image_urls
grok-imagine/image-to-video
grok-imagine/text-to-image prompt
grok-imagine/text-to-video prompt
grok-imagine/upscale task_id
hailuo/02-image-to-video-pro image_url prompt
hailuo/02-image-to-video-standard image_url prompt
hailuo/02-text-to-video-pro prompt
hailuo/02-text-to-video-standard prompt
hailuo/2-3-image-to-video-pro image_url prompt
hailuo/2-3-image-to-video-standard image_url prompt
happyhorse-1-1/image-to-video image_urls
happyhorse-1-1/reference-to-video prompt reference_image
happyhorse-1-1/text-to-video prompt
happyhorse/image-to-video image_urls
happyhorse/reference-to-video prompt reference_image
happyhorse/text-to-video prompt
happyhorse/video-edit prompt video_url
ideogram/character prompt reference_image_urls
ideogram/character-edit image_url mask_url prompt reference_image_urls
ideogram/character-remix image_url prompt reference_image_urls
ideogram/v3-edit image_url mask_url prompt
ideogram/v3-remix image_url prompt
ideogram/v3-text-to-image prompt
infinitalk/from-audio audio_url image_url prompt
kling-2.6/image-to-video duration image_urls prompt sound
kling-2.6/motion-control character_orientation input_urls mode video_urls
kling-2.6/text-to-video aspect_ratio duration prompt sound
kling-3.0-omni/image-to-video
kling-3.0-omni/reference-to-video
kling-3.0-omni/text-to-video prompt
kling-3.0-omni/transformation
kling-3.0/motion-control input_urls video_urls
kling-3.0/video aspect_ratio duration mode prompt sound
kling/ai-avatar-pro audio_url image_url prompt
kling/ai-avatar-standard audio_url image_url prompt
kling/v2-1-master-image-to-video image_url prompt
kling/v2-1-master-text-to-video prompt
kling/v2-1-pro image_url prompt
kling/v2-1-standard image_url prompt
kling/v2-5-turbo-image-to-video-pro image_url prompt
kling/v2-5-turbo-text-to-video-pro prompt
kling/v3-turbo-image-to-video duration image_urls prompt resolution
kling/v3-turbo-text-to-video aspect_ratio duration prompt resolution
minimax-h3/image-to-video duration prompt
minimax-h3/reference-to-video duration prompt
minimax-h3/text-to-video aspect_ratio duration prompt
nano-banana-2 prompt
nano-banana-2-lite aspect_ratio prompt
nano-banana-pro prompt
omnihuman-1-5 audio_url image_url
omnihuman-1-5/human-identification image_url
omnihuman-1-5/subject-detection image_url
pixverse-v6/extend
pixverse-v6/image-to-video duration image_urls prompt quality
pixverse-v6/reference-to-video aspect_ratio duration image_references prompt quality
pixverse-v6/text-to-video aspect_ratio duration prompt quality
pixverse-v6/transition duration first_frame_image_url last_frame_image_url prompt quality
qwen/image-edit image_url prompt
qwen/image-to-image image_url prompt
qwen/text-to-image prompt
qwen2-1/image-to-image image_urls prompt
qwen2-1/text-to-image prompt
qwen2/image-edit image_url prompt
qwen2/text-to-image prompt
qwen3/image-to-image image_urls prompt
qwen3/pro-image-to-image image_urls prompt
qwen3/pro-text-to-image prompt
qwen3/text-to-image prompt
recraft/crisp-upscale image
recraft/remove-background image
seedream/4.5-edit aspect_ratio image_urls prompt quality
seedream/4.5-text-to-image aspect_ratio prompt quality
seedream/5-flash-image-to-image aspect_ratio image_urls prompt
seedream/5-flash-layer-decomposition image_url
seedream/5-flash-text-to-image aspect_ratio prompt
seedream/5-lite-image-to-image aspect_ratio image_urls prompt quality
seedream/5-lite-text-to-image aspect_ratio prompt quality
seedream/5-pro-image-to-image aspect_ratio image_urls prompt quality
seedream/5-pro-layer-decomposition image_url
seedream/5-pro-text-to-image aspect_ratio prompt quality
topaz/image-upscale image_url upscale_factor
topaz/video-upscale video_url
volcengine/video-to-video-lip-sync audio_url mode video_url
wan/2-2-a14b-image-to-video-turbo image_url prompt
wan/2-2-a14b-speech-to-video-turbo audio_url image_url prompt
wan/2-2-a14b-text-to-video-turbo prompt
wan/2-2-animate-move image_url video_url
wan/2-2-animate-replace image_url video_url
wan/2-5-image-to-video duration image_url prompt
wan/2-5-text-to-video duration prompt
wan/2-6-flash-image-to-video audio image_urls prompt
wan/2-6-flash-video-to-video prompt video_urls
wan/2-6-image-to-video image_urls prompt
wan/2-6-text-to-video prompt
wan/2-6-video-to-video prompt video_urls
wan/2-7-image prompt
wan/2-7-image-pro prompt
wan/2-7-image-to-video prompt
wan/2-7-r2v prompt
wan/2-7-text-to-video prompt
wan/2-7-videoedit video_url
wan/3-0-video
wan/3-0-video-prime
z-image aspect_ratio prompt
"""

MODELS = MappingProxyType({line.split()[0]: tuple(line.split()[1:]) for line in _LISTED.strip().splitlines()})
"""Each model with the fields of `input` that it requires."""
