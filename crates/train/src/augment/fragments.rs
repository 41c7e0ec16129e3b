//! Pieces that say nothing about what a customer wants.

pub(super) const GREETINGS: [&str; 20] = [
    "Hello,", "Hi,", "Hi there,", "hey", "Good morning,", "Good evening,", "Dear team,", "Dear Sir or Madam,", "hello!",
    "Hi team,", "To whom it may concern,", "Good day,", "hallo", "Hey guys,", "Dear support,", "hi all", "Greetings,",
    "Hello again,", "Hi!", "Dear shop,",
];

pub(super) const CLOSINGS: [&str; 22] = [
    "Thanks!", "Thank you.", "Thanks in advance.", "Best regards", "Kind regards,", "Best,", "Cheers", "thx",
    "Many thanks", "Yours sincerely", "Thank you for your help.", "Looking forward to hearing from you.", "Greetings",
    "Have a nice day.", "Sent from my phone", "Regards", "ty", "Hope to hear from you soon.",
    "Thank you for your time and have a good weekend.", "Please answer soon.", "Sorry for my bad English.", "bye",
];

pub(super) const ASIDES: [&str; 26] = [
    "I hope you are well.", "I am a regular customer of yours.", "This is the first time I write to you.",
    "Sorry to bother you.", "I could not find anything about it on your site.", "I tried to call but nobody answered.",
    "I am writing from my phone, excuse the typos.", "My colleague recommended your shop.",
    "It is raining here all week.", "I have been a customer for years.", "I hope this reaches the right person.",
    "I know you must be busy.", "My wife asked me to write.", "Sorry if this is the wrong department.",
    "I already looked through the FAQ.", "It was meant as a present.", "I work from home most days.",
    "I really like your shop otherwise.", "I am not very good with computers.", "I live on the third floor.",
    "We had guests last weekend.", "I will be away next week.", "I read your newsletter every time.",
    "my dog says hi", "I was at work all day.", "A friend told me to just ask you.",
];
